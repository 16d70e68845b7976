#!/usr/bin/env bash
# Downloads and unpacks the LibriSpeech sets that are named, from openslr.org:
#   download_librispeech.sh --out DIR --sets SET... [--openslr URL] [--librilight URL]
#       [--keep]
# An archive that was partly downloaded is resumed, every one is checked against its
# SHA-256 sum, and a set that is already unpacked is left alone. Names that start with
# 1h/ or 9h/ stand for Libri-light's ten labeled hours. --keep keeps the archives.
set -euo pipefail

declare -A sums=(
    [dev-clean]=76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3
    [dev-other]=12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365
    [test-clean]=39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23
    [test-other]=d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29
    [train-clean-100]=d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2
    [train-clean-360]=146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf
    [train-other-500]=ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2
)
librilight_sum=5d1efdc777b548194d7e09ba89126e2188026df9fd57aa57eb14408d2b2342af
openslr=https://www.openslr.org/resources/12
librilight=https://dl.fbaipublicfiles.com/librilight/data
out='' keep=false sets=()
declare -A seen=()

die() { # MESSAGE...
    echo "error: $*" >&2
    exit 1
}

# Downloads an archive, checks and unpacks it; its folder appears only when complete.
get() { # URL SUM FOLDER
    local file=$out/${1##*/} part=$out/${1##*/}.part new=$out/.unpacking
    [[ ! -v seen[$1] ]] || return 0
    seen[$1]=true
    if [ -d "$out/$3" ]; then
        echo "$out/$3 is there"
        return
    fi
    mkdir -p "$out"
    if [ ! -e "$file" ]; then
        echo "downloading $1"
        # A part that is complete already cannot be resumed; its sum tells.
        curl --fail --location --show-error "$bar" --connect-timeout 60 \
            --speed-limit 1 --speed-time 60 --continue-at - --output "$part" "$1" ||
            echo "$2  $part" | sha256sum --check --status 2>/dev/null ||
            die "$1 cannot be downloaded. After a broken connection, run the stage" \
                "again to go on; without a network, get the corpus on another machine" \
                "and give its directory with --librispeech DIR"
        mv "$part" "$file"
    fi
    echo "checking $file"
    if ! echo "$2  $file" | sha256sum --check --status; then
        rm "$file"
        die "$file was damaged (its SHA-256 sum is not $2) and has been removed; run" \
            "the stage again"
    fi
    echo "unpacking $file"
    rm -rf "$new"
    mkdir -p "$new" "$(dirname "$out/$3")"
    tar --extract --no-same-owner --file "$file" --directory "$new" ||
        { rm -rf "$new"; die "$file cannot be unpacked"; }
    mv "$new/$3" "$out/$3"
    rm -rf "$new"
    [ "$keep" = true ] || rm "$file"
}

while [ $# -gt 0 ]; do
    case $1 in
        --out | --openslr | --librilight)
            printf -v "${1#--}" '%s' "${2:?"$1 needs a value"}"
            shift ;;
        --keep) keep=true ;;
        --sets)
            while [ $# -gt 1 ] && [[ $2 != --* ]]; do
                sets+=("${2%%:*}")
                shift
            done ;;
        *) die "unknown option '$1'" ;;
    esac
    shift
done
[ -n "$out" ] && [ ${#sets[@]} -gt 0 ] || die "--out and --sets are needed"
for name in "${sets[@]}"; do
    [[ $name == [19]h/* || -v sums[$name] ]] ||
        die "$name is no set of LibriSpeech (${!sums[*]}); give its directory with" \
            "--librispeech DIR"
done
bar=--silent
[ ! -t 2 ] || bar=--progress-bar
for name in "${sets[@]}"; do
    if [[ $name == [19]h/* ]]; then
        get "$librilight/librispeech_finetuning.tgz" "$librilight_sum" \
            librispeech_finetuning
    else
        get "$openslr/$name.tar.gz" "${sums[$name]}" "LibriSpeech/$name"
    fi
done
