# Sourced by run.sh: the Python to use and its surroundings.
# shellcheck shell=bash disable=SC2034

# Sets PYTHON; makes a private environment where espnet_softpl is not installed.
. ../../tools/env.sh || return 1

# Several runs share the processors; run.sh gives more threads to a lone training.
threads_given=${OMP_NUM_THREADS:-}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# On a CPU a process keeps the memory of its tensors, up to 2 GB; or else Linux takes it
# back and clears it again at each step, a tenth of a step's time.
if [ "${ngpu:-0}" -eq 0 ]; then
    export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-1073741824}
    export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-2147483648}
fi
export PYTHONIOENCODING=UTF-8
export PYTHONUNBUFFERED=1
# Kaldi-style lists are sorted by bytes.
export LC_ALL=C.UTF-8 LC_COLLATE=C
