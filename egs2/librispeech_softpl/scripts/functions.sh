# Helpers of run.sh: stage headings, checks, done-stamps and jobs.
# shellcheck shell=bash disable=SC2154

current_stage=0 stage_started=0
pool_pids=() pool_names=()

clock() { # SECONDS
    printf '%d:%02d:%02d' $(($1 / 3600)) $(($1 / 60 % 60)) $(($1 % 60))
}

die() { # MESSAGE...
    printf '%s\n' "run.sh: error: $*" >&2
    exit 1
}

# Prints how long the stage took; run.sh calls it after the last one too.
end_stage() {
    [ "$current_stage" -eq 0 ] ||
        echo "Stage $current_stage: done in $(clock $((SECONDS - stage_started)))"
    current_stage=0
}

# True where the stage is to be run; prints its heading then.
begin_stage() { # NUMBER TITLE
    [ "$1" -ge "$stage" ] && [ "$1" -le "$stop_stage" ] || return 1
    end_stage
    current_stage=$1 stage_started=$SECONDS
    echo "Stage $1: $2 ($(date '+%H:%M:%S'), elapsed $(clock "$SECONDS"))"
}

# Refuses where a file that an earlier stage writes is missing.
need() { # STAGE FILE...
    local earlier=$1 file
    shift
    [ "$dry_run" = true ] && return
    for file; do
        [ -e "$file" ] || die "stage $current_stage needs $file, which stage $earlier" \
            "writes. Run ./run.sh --stage $earlier with the same options first"
    done
}

# Prints a key that changes with the options, and with the files: the content of small
# files, size and time of change of large ones, and the tree of directories.
make_key() { # OPTIONS FILE...
    local file
    printf '%s\n' "$1"
    shift
    for file; do
        if [ -d "$file" ]; then
            find -L "$file" -maxdepth 5 -type d -printf '%p %T@\n' | sort | md5sum
        elif [ ! -e "$file" ]; then
            echo "$file is missing"
        elif [ "$(stat -L -c %s "$file")" -gt 33554432 ]; then
            stat -L -c '%n %s %Y' "$file"
        else
            md5sum "$file"
        fi
    done
}

# True where the work that STAMP stands for must be done: because it never ended, or
# was done with other options or inputs. Call mark_done with the same arguments after.
changed() { # STAMP OPTIONS FILE...
    local stamp=$1
    shift
    if [ "$dry_run" = true ] || [ "$force" = true ]; then
        return 0
    fi
    if [ -e "$stamp" ] && [ "$(make_key "$@")" = "$(cat "$stamp")" ]; then
        echo "  unchanged since it was done: ${stamp%/.*} (--force true does it again)"
        return 1
    fi
}

mark_done() { # STAMP OPTIONS FILE...
    local stamp=$1
    shift
    [ "$dry_run" = true ] && return
    mkdir -p "${stamp%/*}"
    make_key "$@" >"$stamp.tmp"
    mv "$stamp.tmp" "$stamp"
}

# Runs a command, or only prints it.
run() { # COMMAND...
    if [ "$dry_run" = true ]; then
        printf '  %s\n' "$(printf '%q ' "$@")"
    else
        "$@"
    fi
}

# Runs a command in the background through train_cmd or decode_cmd, when fewer than
# POOL others are running. Each gets a process group of its own, so that stopping
# run.sh stops all of it.
pool_add() { # POOL NAME COMMAND...
    local size=$1 name=$2
    shift 2
    if [ "$dry_run" = true ]; then
        "$@"
        return
    fi
    while [ "$(jobs -rp | wc -l)" -ge "$size" ]; do
        wait -n || true
    done
    set -m
    "$@" </dev/null &
    set +m
    pool_pids+=("$!") pool_names+=("$name")
}

# Waits for all of the pool and stops run.sh if one of them failed.
pool_wait() {
    local i failed=()
    for i in "${!pool_pids[@]}"; do
        wait "${pool_pids[i]}" || failed+=("${pool_names[i]}")
    done
    pool_pids=() pool_names=()
    [ ${#failed[@]} -eq 0 ] || die "failed: ${failed[*]} (see above)"
}

stop_pool() {
    local pid
    for pid in "${pool_pids[@]}"; do
        kill -TERM -- "-$pid" 2>/dev/null || true
    done
}

# What is said when run.sh ends before its end.
on_exit() { # STATUS
    unfollow
    stop_pool
    [ "$1" -eq 0 ] || [ "$current_stage" -eq 0 ] ||
        echo "run.sh: stopped in stage $current_stage with status $1 after" \
            "$(clock "$SECONDS")" >&2
}

# Shows the progress of jobs on a terminal, until unfollow.
follow() { # ARGUMENTS_OF_FOLLOW_PY...
    follow_pid=''
    if [ -t 2 ] && [ "$dry_run" != true ]; then
        "$PYTHON" local/follow.py "$@" &
        follow_pid=$!
        disown "$follow_pid"
    fi
}

unfollow() {
    [ -z "${follow_pid:-}" ] || kill "$follow_pid" 2>/dev/null || true
    follow_pid=''
}
