# Command-line options of a recipe script. Source it after the block of options.
#
# The block lies between the lines "# Options begin" and "# Options end" of the script
# and has one option a line: `name=default  # what it is`. The default gives the type:
# true or false, a whole number, a decimal number, or text (which may be in quotes).
# Options are given as `--name value` or `--name=value`, with `-` or `_` between words;
# `--name` alone stands for true. A preset conf/corpora/<corpus>.sh overrides the
# defaults, conf/models/<model>.sh overrides both, and the command line all of them. The
# current directory must be the script's own.
# shellcheck shell=bash

_script=${0##*/}

_refuse() {
    printf '%s: error: %s\n' "$_script" "$1" >&2
    printf 'Try ./%s --help\n' "$_script" >&2
    exit 2
}

# Reads the block of options: names in order, their defaults, and the help text.
_read_block() {
    local line
    local pattern='^([a-z][a-z0-9_]*)=([^#]*[^# ]|) *# (.*)$'
    _names=() _help_lines=()
    while IFS= read -r line; do
        if [[ $line =~ $pattern ]]; then
            local name=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
            _names+=("$name")
            _default[$name]=$value
            value=${value#\"} value=${value%\"}
            _help_lines+=("$(printf '  --%-22s %s%s' "${name//_/-}" \
                "${BASH_REMATCH[3]}" "${value:+ [$value]}")")
        elif [[ $line == '# '* ]]; then
            _help_lines+=("" "${line#\# }:")
        fi
    done < <(sed '1,/^# Options begin/d; /^# Options end/,$d' "$_script")
}

_print_help() {
    printf 'Usage: ./%s [--option value]...\n\n' "$_script"
    sed -n '2,/^$/s/^# \{0,1\}//p' "$_script"
    printf '%s\n' "${_help_lines[@]}"
}

_check_known() { # NAME WHERE
    [[ $1 =~ ^[a-z][a-z0-9_]*$ && -v _default[$1] ]] ||
        _refuse "unknown option '$1' $2"
}

_check_type() { # NAME VALUE
    local whole='^[0-9]+$' decimal='^([0-9]+\.?[0-9]*|\.[0-9]+)$'
    if [[ ${_default[$1]} =~ ^(true|false)$ ]]; then
        [[ $2 =~ ^(true|false)$ ]] || _refuse "--$1 must be true or false, not '$2'"
    elif [[ ${_default[$1]} =~ $whole ]]; then
        [[ $2 =~ $whole ]] || _refuse "--$1 must be a whole number, not '$2'"
    elif [[ ${_default[$1]} =~ $decimal ]]; then
        [[ $2 =~ $decimal ]] || _refuse "--$1 must be a number, not '$2'"
    fi
}

_read_command_line() {
    local name value
    while [ $# -gt 0 ]; do
        case $1 in
            --help | -h) _print_help; exit 0 ;;
            --?*) ;;
            *) _refuse "'$1' is no option; options look like --name value" ;;
        esac
        name=${1#--}
        shift
        if [[ $name == *=* ]]; then
            value=${name#*=} name=${name%%=*}
        fi
        name=${name//-/_}
        _check_known "$name" "on the command line"
        if [ -z "${value+set}" ]; then
            if [[ ${_default[$name]} =~ ^(true|false)$ && ${1:---} == --* ]]; then
                value=true
            elif [ $# -eq 0 ]; then
                _refuse "--$name needs a value"
            elif [[ $1 == --* && $name != *_args && $name != cmd_* ]]; then
                _refuse "--$name needs a value, but '$1' follows"
            else
                value=$1
                shift
            fi
        fi
        _check_type "$name" "$value"
        _given[$name]=$value
        unset value
    done
}

# Applies a preset, whose assignments must all be options.
_read_preset() { # FILE
    local name
    while read -r name; do
        _check_known "$name" "in $1"
    done < <(sed -n 's/^ *\([A-Za-z0-9_]*\)=.*/\1/p' "$1")
    # shellcheck disable=SC1090
    . "./$1"
    for name in "${_names[@]}"; do
        _check_type "$name" "${!name}"
    done
}

# Applies the presets of the corpus and of the model. A corpus of the user's own needs
# none; a model always has one.
_read_presets() {
    local name
    corpus=${_given[corpus]:-$corpus} model=${_given[model]:-$model}
    for name in corpus model; do
        [[ ${!name:-none} =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] ||
            _refuse "--$name '${!name}' must be made of letters, digits, '.', '_' and '-'"
    done
    [ ! -e "conf/corpora/$corpus.sh" ] || _read_preset "conf/corpora/$corpus.sh"
    [ -n "$model" ] || return 0
    [ -e "conf/models/$model.sh" ] || _refuse "--model '$model' is none of:\
 $(basename -s .sh conf/models/*.sh | paste -s -d ' ')"
    _read_preset "conf/models/$model.sh"
}

declare -A _default=() _given=()
command_line="./$_script"
[ $# -eq 0 ] || command_line+=$(printf ' %q' "$@")
_read_block
_read_command_line "$@"
_read_presets
for _name in "${!_given[@]}"; do
    printf -v "$_name" '%s' "${_given[$_name]}"
done
unset _name
