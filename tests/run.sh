#!/usr/bin/env bash
# Runs the tests, after setting up the environment where there is none; see --help.

set -euo pipefail

usage() {
  cat <<'EOF'
Usage: tests/run.sh [--fast] [pytest arguments]

Runs the whole test suite, in as many processes as there are cores (8 at most);
--fast leaves out the tests marked slow. `-n 0` runs them in one process.
Example: tests/run.sh --fast -n 0 -k criteria -x
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
# Modules are compiled once, not again by each process that a test starts.
unset PYTHONDONTWRITEBYTECODE
# Another checkout may be the installed one: the tests are about this one.
export PYTHONPATH="${root}${PYTHONPATH:+:${PYTHONPATH}}"

# A core that has run out of tests takes some of those that wait for another one.
parallel=()
if "${PYTHON}" -c "import xdist" 2>/dev/null; then
  parallel=(-n auto --maxprocesses 8 --dist worksteal)
fi

# A test that hangs fails, and shows where it is.
limited=()
if "${PYTHON}" -c "import pytest_timeout" 2>/dev/null; then
  limited=(--timeout 900)
fi

cd "${root}"
exec "${PYTHON}" -m pytest \
  ${parallel[@]+"${parallel[@]}"} ${limited[@]+"${limited[@]}"} \
  ${selection[@]+"${selection[@]}"} "$@"
