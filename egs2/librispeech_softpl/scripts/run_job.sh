#!/usr/bin/env bash
# Runs a command, or one for each of several jobs, on this machine, with a log file.
#
#   run_job.sh [--gpu N] [--mem SIZE] [--max-jobs-run N] [JOB=1:4] LOG COMMAND...
#
# It follows the calling convention of Kaldi's run.pl, queue.pl and slurm.pl, so that
# those can take its place. JOB is replaced by the job's number in LOG and COMMAND.
# Options for queues (--gpu, --mem, --num-threads, ...) are accepted and do nothing.
# The exit status is 0 if every job succeeded.
set -uo pipefail

usage() {
    sed -n '2,/^set/{s/^# \{0,1\}//p}' "$0" >&2
    exit 2
}

max_jobs=$(nproc)
variable='' first=1 last=1
while [ $# -gt 0 ]; do
    case $1 in
        --max-jobs-run | -tc) max_jobs=${2:?} && shift 2 ;;
        -*) [ $# -ge 2 ] || usage; shift 2 ;;
        *=*)
            [[ $1 =~ ^([A-Za-z_][A-Za-z0-9_]*)=([0-9]+)(:([0-9]+))?$ ]] || usage
            variable=${BASH_REMATCH[1]} first=${BASH_REMATCH[2]}
            last=${BASH_REMATCH[4]:-$first}
            shift ;;
        *) break ;;
    esac
done
[ $# -ge 2 ] && [ "$first" -le "$last" ] || usage
if [ -n "$variable" ] && [ "$first" -lt "$last" ] && [[ $1 != *"$variable"* ]]; then
    echo "run_job.sh: the log '$1' must contain $variable" >&2
    exit 2
fi

run_one() { # NUMBER LOG COMMAND...
    local number=$1 log started status=0
    shift
    local words=("$@")
    [ -z "$variable" ] || words=("${words[@]//$variable/$number}")
    log=${words[0]} started=$SECONDS
    mkdir -p "$(dirname "$log")"
    {
        printf '# %s\n' "$(printf '%q ' "${words[@]:1}")"
        printf '# Started at %s\n#\n' "$(date)"
    } >"$log"
    "${words[@]:1}" >>"$log" 2>&1 </dev/null || status=$?
    {
        printf '# Accounting: time=%d threads=1\n' $((SECONDS - started))
        printf '# Ended (code %d) at %s\n' "$status" "$(date)"
    } >>"$log"
    if [ "$status" -ne 0 ]; then
        {
            printf 'The job failed with status %d. Last lines of %s:\n' "$status" "$log"
            grep -v -e '^#' -e '^\[nltk_data\]' "$log" | tail -n 15 | cut -c 1-300 |
                sed 's/^/    /'
        } >&2
    fi
    return "$status"
}

failed=0 running=0
for ((number = first; number <= last; number++)); do
    if [ "$running" -ge "$max_jobs" ]; then
        wait -n || failed=1
        running=$((running - 1))
    fi
    run_one "$number" "$@" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || failed=1
    running=$((running - 1))
done
exit "$failed"
