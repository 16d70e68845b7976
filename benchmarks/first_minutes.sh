#!/usr/bin/env bash
# How long a newcomer waits: set-up, `softpl demo`, help and refusals; see --help.

set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

usage() {
  cat <<'EOF'
Usage: benchmarks/first_minutes.sh DIR

Clones this repository's last commit into DIR (new), sets it up, and prints rows of a
Markdown table: the seconds of the set-up, of `softpl demo`, of `--help` of each command,
and of a report that is refused. What the commands print goes to DIR/log.
EOF
}

# Runs a command and prints its row: $1 is the status that is expected.
row() {
  local expected="$1" status=0 begin="${EPOCHREALTIME/./}"
  shift
  "$@" >>"${dir}/log" 2>&1 </dev/null || status=$?
  local ms=$(((${EPOCHREALTIME/./} - begin) / 1000))
  printf '| %s | %d.%02d |\n' "$*" $((ms / 1000)) $((ms % 1000 / 10))
  [ "${status}" -eq "${expected}" ] || {
    echo "first_minutes.sh: status ${status}, not ${expected}; see ${dir}/log" >&2
    exit 1
  }
}

case "${1:-}" in
  -h | --help) usage && exit 0 ;;
  "" | -*)
    usage >&2
    exit 2
    ;;
esac
mkdir "$1"
dir="$(cd "$1" && pwd)"
git clone --quiet "${root}" "${dir}/clone"
cd "${dir}/clone"
unset PYTHONPATH
printf '| command | seconds |\n|---|---|\n'
row 0 tools/setup_venv.sh
# shellcheck source=/dev/null
. .venv/bin/activate
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
row 0 softpl demo --no-open --out ../demo
row 0 softpl --help
commands="$(softpl --help | sed -n 's/^    \([a-z][a-z-]\+\) .*/\1/p')"
for command in ${commands}; do
  row 0 softpl "${command}" --help
done
row 2 softpl report /nope
