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

# Prints options of run.sh as a key has them: name and value, one a line.
options() { # VARIABLE...
    local name
    for name; do
        printf -- '--%s\t%s\n' "$name" "${!name}"
    done
}

# Prints the options of a command line in the same way.
command_options() { # WORD...
    local word line=''
    for word; do
        if [[ $word == --* ]]; then
            [ -z "$line" ] || printf '%s\n' "$line"
            line=${word/=/$'\t'}
        elif [[ $line == *$'\t'* ]]; then
            line+=" $word"
        else
            line+=$'\t'$word
        fi
    done
    printf '%s\n' "$line"
}

# Prints a digest of what a file or directory holds; a copy of it has the same. Of a
# directory: names and sizes, tables and texts, and sizes of the audio in a wav.scp. Of
# a large file: its size, the first and the last 16 MiB.
digest() { # FILE
    local part=16777216
    if [ -d "$1" ]; then
        {
            find -L "$1" -type f -printf '%P\t%s\n' | sort
            find -L "$1" -type f -size -65536k \( -name '*.txt' -o -name '*.scp' -o \
                -name 'text.*' -o ! -name '*.*' \) -print0 | sort -z | xargs -0r cat
            [ ! -e "$1/wav.scp" ] || awk 'NF == 2 { print $2 }' "$1/wav.scp" |
                xargs -rd '\n' stat -L -c %s 2>/dev/null || true
        } | md5sum
    elif [ ! -e "$1" ]; then
        echo missing
    elif [ "$(stat -L -c %s "$1")" -gt $((2 * part)) ]; then
        { stat -L -c %s "$1"; head -c "$part" "$1"; tail -c "$part" "$1"; } | md5sum
    else
        md5sum <"$1"
    fi
}

# Prints a key that changes with the options, and with what the files hold. A file
# `.contents` is a key itself.
make_key() { # OPTIONS FILE...
    local file sum
    [ -z "$1" ] || printf '%s\n' "$1"
    shift
    for file; do
        if [[ $file == */.contents ]]; then
            cat "$file"
        else
            sum=$(digest "$file")
            printf '%s\t%s\n' "$file" "${sum%% *}"
        fi
    done
}

has_key() { # STAMP KEY
    [ -e "$1" ] && [ "$(cat "$1")" = "$2" ]
}

# Prints which options and files are not those that STAMP was written with.
explain() { # STAMP KEY WHAT
    if [ "$force" = true ] || has_key "$1" "$2"; then
        return
    fi
    echo "  $3 was done with other options or data:"
    if ! grep -qs $'\t' "$1"; then
        echo "    it is not known which"
        return
    fi
    awk -F '\t' '
        FNR == 1 { from++ }
        !($1 in seen) { seen[$1]; names[++count] = $1 }
        ($1, from) in value { value[$1, from] = value[$1, from] " " $2; next }
        { value[$1, from] = $2 }
        END {
            for (i = 1; i <= count; i++) {
                name = names[i]
                old = (name, 1) in value ? value[name, 1] : "(not given)"
                new = (name, 2) in value ? value[name, 2] : "(not given)"
                if (old == new) continue
                if (name ~ /^--/) print "    " name ": " old " -> " new
                else print "    " name " has changed"
            }
        }' "$1" <(printf '%s\n' "$2") | cut -c 1-300
}

# True if the work that STAMP stands for must be done: because it never ended, or was
# done with other options or inputs. The stamp goes before the work is begun again, for
# it may be cut off. Call mark_done with the same arguments after.
changed() { # STAMP OPTIONS FILE...
    local stamp=$1 key
    shift
    [ "$dry_run" = false ] || return 0
    if [ "$force" = false ] && [ -e "$stamp" ]; then
        key=$(make_key "$@")
        if has_key "$stamp" "$key"; then
            echo "  unchanged since it was done: ${stamp%/.*} (--force true does it again)"
            return 1
        fi
        explain "$stamp" "$key" "${stamp%/.*}"
    fi
    rm -f "$stamp"
}

write_stamp() { # STAMP KEY
    mkdir -p "${1%/*}"
    printf '%s\n' "$2" >"$1.tmp"
    mv "$1.tmp" "$1"
}

mark_done() { # STAMP OPTIONS FILE...
    [ "$dry_run" = true ] || write_stamp "$1" "$(make_key "${@:2}")"
}

# Moves a directory to the first of DIR.previous, DIR.previous2 ... that is free.
set_aside() { # DIR
    local target=$1.previous number=1
    while [ -e "$target" ]; do
        number=$((number + 1))
        target=$1.previous$number
    done
    mv -T "$1" "$target"
    echo "  $1 is now $target"
}

# Brings back what was done with KEY and then set aside, finished work first.
bring_back() { # DIR KEY
    local stamp old
    [ "$force" = false ] || return 0
    for stamp in .done .started; do
        ! has_key "$1/$stamp" "$2" || return 0
        for old in "$1".previous*; do
            has_key "$old/$stamp" "$2" || continue
            echo "  $old has these options and data: it is brought back"
            [ ! -e "$1" ] || set_aside "$1"
            mv -T "$old" "$1"
            return
        done
    done
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
