# Sourced by run.sh: the Python to use and its surroundings.
# shellcheck shell=bash

# Sets PYTHON; makes a private environment where espnet_softpl is not installed.
. ../../tools/env.sh || return 1

# One thread per process: several runs share the processors.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export PYTHONIOENCODING=UTF-8
export PYTHONUNBUFFERED=1
# Kaldi-style lists are sorted by bytes.
export LC_ALL=C.UTF-8 LC_COLLATE=C
