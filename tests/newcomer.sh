#!/usr/bin/env bash
# Does what docs/first_run.md says, block by block, in a new directory; see --help.

set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
page="${root}/docs/first_run.md"

usage() {
  cat <<'EOT'
Usage: tests/newcomer.sh [--scale full|tiny] [--python FILE] [--until N] DIR

Copies the project into DIR (new or empty), as a clone would, and runs the blocks of
commands of docs/first_run.md there as one script. Prints how long each took (seconds);
what each printed is in DIR/block<N>.log. Status: that of the first block that fails.

  --scale full|tiny  full (default): as the page has it, about 11 minutes on 2 cores.
                     tiny: a tenth of the corpus, two short epochs; about 2 minutes
  --python FILE      an environment that has all that is needed: block 1 does not
                     make one (default: it does, 2 minutes and 2 GB)
  --until N          run the first N blocks only (default: all)
EOT
}

die() {
  echo "newcomer.sh: error: $*" >&2
  exit 2
}

scale=full python='' until=999 target=''
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage && exit 0 ;;
    --scale | --python | --until)
      [ $# -ge 2 ] || die "$1 needs a value"
      declare "${1#--}=$2"
      shift 2
      ;;
    -*) die "unknown option $1; see --help" ;;
    *)
      [ -z "${target}" ] || die "one directory, but got ${target} and $1"
      target=$1
      shift
      ;;
  esac
done
[[ ${scale} =~ ^(full|tiny)$ ]] || die "--scale must be full or tiny, not '${scale}'"
[[ ${until} =~ ^[1-9][0-9]*$ ]] || die "--until must be at least 1, not '${until}'"
[ -n "${target}" ] || die "name a directory; see --help"
[ -z "${python}" ] || [ -x "${python}" ] || die "--python: cannot run '${python}'"
[ -z "$(ls -A "${target}" 2>/dev/null)" ] || die "${target} is not empty"

# Replaces a text of the script, which must be there: the page may have changed.
replace() { # TEXT REPLACEMENT
  [[ ${script} == *"$1"* ]] || die "${page} does not say '$1' any more"
  script=${script//"$1"/"$2"}
}

# Prints the page's blocks of commands, each with the lines that time it.
timed_blocks() {
  awk -v most="${until}" '
    /^```sh$/ && number < most {
      inside = 1
      number++
      printf "block=%d; started=$SECONDS\n{\n", number
      next
    }
    /^```$/ && inside {
      inside = 0
      printf "} >\"$logs/block%d.log\" 2>&1\n", number
      printf "echo \"block %d: $((SECONDS - started)) s\" >&3\n", number
      next
    }
    inside { print }
  ' "${page}"
}

script=$(timed_blocks)
if [ -n "${python}" ]; then
  bin="$(cd "$(dirname "${python}")" && pwd)"
  replace 'tools/setup_venv.sh ' ": "
  replace '. .venv/bin/activate' "export PYTHON='${bin}/python' PATH='${bin}':\$PATH"
  # An installed copy may be another one.
  replace 'cd egs2/' "export PYTHONPATH=\$PWD\${PYTHONPATH:+:\$PYTHONPATH}; cd egs2/"
fi
if [ "${scale}" = tiny ]; then
  replace '--stop-stage 7' '--stop-stage 7 --corpus_args "--scale 0.1"'
  [ "${until}" -lt 3 ] || replace '--normalize utterance_mvn' \
    '--normalize utterance_mvn --max_epoch 2 --num_iters_per_epoch 5'
fi

mkdir -p "${target}"
target="$(cd "${target}" && pwd)"
mkdir "${target}/clone"

# Prints what a clone would hold: what git tracks or would track, or without git all
# but what runs leave behind. Names end with a zero byte.
list_files() {
  git ls-files -z -co --exclude-standard 2>/dev/null ||
    find . -type d \( -name .venv -o -name exp -o -name dump -o -name data \
      -o -name downloads \) -prune -o -type f -print0
}

# Files that git lists, and that are deleted, are no reason to fail.
(cd "${root}" && list_files |
  tar --null --files-from=- --ignore-failed-read -cf - 2>/dev/null) |
  tar -xf - -C "${target}/clone"

# The script does not come from a terminal, and stops at the first command that fails.
started=${SECONDS} status=0
(
  cd "${target}/clone"
  logs=${target} exec bash -euo pipefail -c "exec 3>&1
trap '[ \$? -eq 0 ] || echo \"block \$block: failed, see \$logs/block\$block.log\" >&3' EXIT
${script}" </dev/null
) || status=$?
echo "all: $((SECONDS - started)) s"
exit "${status}"
