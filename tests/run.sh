#!/usr/bin/env bash
# Runs the tests, after setting up the environment where there is none; see --help.

set -euo pipefail

usage() {
  cat <<'EOF'
Usage: tests/run.sh [--fast] [pytest arguments]

Runs the whole test suite; --fast leaves out the tests marked slow.
Example: tests/run.sh --fast -k criteria -x
EOF
}

selection=(-m "slow or not slow")
case "${1:-}" in
  -h | --help) usage && exit 0 ;;
  --fast) selection=() && shift ;;
esac

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "${root}/tools/env.sh"

# Small tensors gain nothing from threads, and some tests run several processes.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MKL_NUM_THREADS="${MKL_NUM_THREADS:-1}"
export MPLBACKEND=Agg
# Another checkout may be the installed one: the tests are about this one.
export PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}"

cd "${root}"
exec "${PYTHON}" -m pytest ${selection[@]+"${selection[@]}"} "$@"
