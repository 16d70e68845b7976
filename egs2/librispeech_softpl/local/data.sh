# Stages 1 and 2: every corpus comes in LibriSpeech's layout and takes the same path,
# except for the user's own Kaldi-style directories.
# shellcheck shell=bash disable=SC2154

# Sets `roots`: the directories that hold the set folders.
set_roots() {
    case $corpus_kind in
        librispeech)
            read -r -a roots <<<"${librispeech:-downloads/LibriSpeech}"
            if [ -z "$librispeech" ] && [[ $labeled_sets == [19]h/* ]]; then
                roots+=(downloads/librispeech_finetuning)
            fi ;;
        kaldi) roots=() ;;
        *) roots=("downloads/$corpus") ;;
    esac
}

# Refuses options that do not belong to the corpus, and directories that do not exist.
check_corpus_options() {
    local name directory presets
    local -a kaldi_dirs
    presets=$(basename -s .sh conf/corpora/*.sh | paste -s -d ' ')
    read -r -a kaldi_dirs <<<"$labeled_dir $unlabeled_dir $dev_dir $test_dirs"
    if [ ${#kaldi_dirs[@]} -gt 0 ]; then
        corpus_kind=kaldi
    elif [ -z "$corpus_kind" ]; then
        corpus_kind=kaldi
        [ -z "$digits" ] || corpus_kind=digits
        [ -z "$words" ] || corpus_kind=words
        [ -z "$librispeech" ] || corpus_kind=librispeech
    fi
    case $corpus_kind in
        mini | librispeech) ;;
        digits)
            [ -n "$digits" ] || die "corpus $corpus needs --digits DIR, a directory" \
                "of free-spoken-digit recordings" ;;
        words)
            [ -n "$words" ] || die "corpus $corpus needs --words DIR, a directory" \
                "of recordings of single words" ;;
        kaldi)
            for name in labeled_dir unlabeled_dir dev_dir test_dirs; do
                [ -n "${!name}" ] || die "your own data in Kaldi's form need --$name;" \
                    "for a corpus use --corpus, one of: $presets"
            done ;;
        *) die "--corpus_kind must be mini, digits, words, librispeech or kaldi" ;;
    esac
    [ -z "$librispeech" ] || [ "$corpus_kind" = librispeech ] ||
        die "--librispeech is not for corpus $corpus; add --corpus librispeech_100 or" \
            "another preset of LibriSpeech"
    [ -z "$digits" ] || [ "$corpus_kind" = digits ] ||
        die "--digits is not for corpus $corpus; add --corpus digits"
    [ -z "$words" ] || [ "$corpus_kind" = words ] ||
        die "--words is not for corpus $corpus; add --corpus commands_ar or commands_en"
    for name in digits words labeled_dir unlabeled_dir dev_dir base_init; do
        [[ ${!name} != *[[:space:]]* ]] ||
            die "--$name '${!name}': a path must not have white space"
    done
    read -r -a given_dirs <<<"$librispeech $digits $words"
    for directory in "${given_dirs[@]}" "${kaldi_dirs[@]}"; do
        [ -d "$directory" ] || die "there is no directory '$directory' (paths start" \
            "at the recipe's directory and must not have white space)"
    done
}

# Stage 1: makes, downloads or locates the corpus.
get_corpus() {
    local -a sets extra
    read -r -a extra <<<"$corpus_args"
    case $corpus_kind in
        mini) run "$PYTHON" -m espnet_softpl.bin.make_mini_corpus \
            --out "downloads/$corpus" --jobs "$nj" "${extra[@]}" ;;
        digits) run "$PYTHON" -m espnet_softpl.bin.make_digits_corpus \
            --digits "$digits" --out "downloads/$corpus" --jobs "$nj" "${extra[@]}" ;;
        words) run "$PYTHON" -m espnet_softpl.bin.make_words_corpus \
            --words "$words" --out "downloads/$corpus" --jobs "$nj" "${extra[@]}" ;;
        librispeech)
            if [ -z "$librispeech" ]; then
                read -r -a sets <<<"$labeled_sets $unlabeled_sets $dev_sets $test_sets"
                run ./local/download_librispeech.sh --sets "${sets[@]}" \
                    --out downloads "${extra[@]}"
            fi ;;
    esac
    echo "  ${roots[*]:-$labeled_dir $unlabeled_dir $dev_dir $test_dirs}"
}

# Stage 2: writes the data directories labeled, unlabeled, dev and test.
prepare_data() {
    local part name
    local -a words arguments=()
    for part in labeled unlabeled dev test; do
        if [ "$corpus_kind" = kaldi ]; then
            name=${part}_dir
            [ "$part" != test ] || name=test_dirs
        else
            name=${part}_sets
        fi
        read -r -a words <<<"${!name}"
        arguments+=("--$part" "${words[@]}")
    done
    if [ "$corpus_kind" = kaldi ]; then
        run "$PYTHON" local/prepare_kaldi.py "${arguments[@]}" --out "$data" \
            --audio "$dump/extracted" --allow_pipes "$allow_pipes" \
            --max_bad_share "$max_bad_share" --nj "$nj"
    else
        run "$PYTHON" local/prepare_librispeech.py --root "${roots[@]}" \
            "${arguments[@]}" --out "$data"
    fi
}
