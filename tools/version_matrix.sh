#!/usr/bin/env bash
# Runs the fast tests with several versions of Python and ESPnet; see --help.

set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
pairs=(3.11:202511 3.11:202509 3.11:202412 3.10:202511 3.12:202511 3.13:202511)

usage() {
  cat <<'EOF'
Usage: tools/version_matrix.sh DIR [PYTHON:ESPNET]...

Makes an environment for each Python in DIR (2 GB each), installs each ESPnet into that
of its Python, runs `tests/run.sh --fast` and prints a row of a Markdown table with the
result. The interpreters must be there: python3.12 for 3.12. Logs stay in DIR.
Default: 3.11:202511 3.11:202509 3.11:202412 3.10:202511 3.12:202511 3.13:202511
EOF
}

# Prints the version of a package in the environment of $1, a dash if it is not there.
version_of() {
  "$1" -c "from importlib.metadata import version; print(version('$2'))" 2>/dev/null ||
    echo -
}

case "${1:-}" in
  -h | --help) usage && exit 0 ;;
  "" | -*)
    usage >&2
    exit 2
    ;;
esac
mkdir -p "$1"
dir="$(cd "$1" && pwd)"
shift
[ $# -eq 0 ] || pairs=("$@")

failed=0
printf '| Python | ESPnet | torch | fast tests |\n|---|---|---|---|\n'
for pair in "${pairs[@]}"; do
  name="${pair%%:*}" espnet="${pair##*:}"
  log="${dir}/${name}-${espnet}.log"
  python="${dir}/${name}/bin/python"
  if PYTHON="python${name}" "${root}/tools/setup_venv.sh" "${dir}/${name}" &&
    "${python}" -m pip install --no-deps "espnet==${espnet}"; then
    status=0
    PYTHON="${python}" "${root}/tests/run.sh" --fast -q || status=$?
  else
    status=1
  fi >"${log}" 2>&1
  [ "${status}" -eq 0 ] || failed=1
  found="$(version_of "${python}" espnet)" torch="$(version_of "${python}" torch)"
  [ "${found}" = "${espnet}" ] || failed=1
  printf '| %s | %s | %s | %s |\n' \
    "${name}" "${found}" "${torch}" "$(tail -n 1 "${log}" | sed 's/=//g; s/^ *//')"
done
exit "${failed}"
