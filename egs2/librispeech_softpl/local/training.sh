# Statistics, training runs and decoding: the ESPnet command lines of stages 7 to 10.
# shellcheck shell=bash disable=SC2154

# Sets `model_options`: what every ESPnet command here has in common.
set_model_options() {
    model_options=(
        --token_type "$token_type" --token_list "$tokens"
        --bpemodel "$([ "$token_type" = bpe ] && echo "$bpemodel" || echo none)"
        --non_linguistic_symbols none --cleaner none --g2p none --use_preprocessor true
        --frontend_conf "fs=$fs"
        --train_data_path_and_name_and_type "$dump/labeled/wav.scp,speech,sound"
        --train_data_path_and_name_and_type "$dump/labeled/text,text,text"
        --valid_data_path_and_name_and_type "$dump/dev/wav.scp,speech,sound"
        --valid_data_path_and_name_and_type "$dump/dev/text,text,text"
    )
    normalize_options=(--normalize "$feats_normalize")
    [ "$feats_normalize" != global_mvn ] ||
        normalize_options+=(--normalize_conf "stats_file=$stats/train/feats_stats.npz")
}

# Prints the words of an option such as --train_args, one a line.
split_words() { # TEXT
    local words
    read -r -a words <<<"$1"
    [ ${#words[@]} -eq 0 ] || printf '%s\n' "${words[@]}"
}

# Runs a job through train_cmd or decode_cmd; says first where its log is.
job() { # CMD_VARIABLE LOG [JOB=1:N] -- COMMAND...
    local -a cmd options=()
    read -r -a cmd <<<"${!1}"
    local log=$2
    shift 2
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    echo "  log: ${log//JOB/*}"
    run "${cmd[@]}" --gpu "$ngpu" "${options[@]}" "$log" "$@"
}

# Writes the configuration of a system: FILE joined with those that it is based on.
join_config() { # SYSTEM FILE
    [ "$dry_run" = true ] || echo "  local/join_config.py $2 --out $conf/$1.yaml"
    run "$PYTHON" local/join_config.py "$2" --out "$conf/$1.yaml"
}

# Statistics of the labeled features, and the shapes that batches are made from.
collect_stats() { # OUTPUT_DIR
    local out=$1 parts=1 part vocab ngpu=0
    [ "$dry_run" = true ] ||
        [ "$(wc -l <"$dump/labeled/utt2num_samples")" -lt 2000 ] || parts=$nj
    run "$PYTHON" local/split_keys.py --parts "$parts" --out "$out/split/train" \
        --samples "$dump/labeled/utt2num_samples"
    run "$PYTHON" local/split_keys.py --parts "$parts" --out "$out/split/valid" \
        --samples "$dump/dev/utt2num_samples"
    mapfile -t extra < <(split_words "$train_args")
    job train_cmd "$out/log/stats.JOB.log" "JOB=1:$parts" -- \
        "$PYTHON" local/espnet_command.py asr_train --collect_stats true \
        --config "$conf/warmup.yaml" "${model_options[@]}" "${extra[@]}" --ngpu 0 \
        --train_shape_file "$out/split/train.JOB" \
        --valid_shape_file "$out/split/valid.JOB" --output_dir "$out/split/stats.JOB"
    local -a input=()
    for ((part = 1; part <= parts; part++)); do
        input+=(--input_dir "$out/split/stats.$part")
    done
    run ./scripts/run_job.sh "$out/log/aggregate.log" \
        "$PYTHON" local/espnet_command.py aggregate_stats_dirs "${input[@]}" \
        --output_dir "$out"
    [ "$dry_run" = true ] && return
    # ESPnet counts batch sizes from "length,vocabulary size" of the text.
    vocab=$(wc -l <"$tokens")
    for part in train valid; do
        sed "s/\$/,$vocab/" "$out/$part/text_shape" >"$out/$part/text_shape.$token_type"
    done
    mkdir -p "$out/unlabeled"
    cp "$dump/unlabeled/utt2num_samples" "$out/unlabeled/speech_shape"
    rm -r "$out/split"
}

# True if a directory holds something that was trained, or the beginning of it.
holds_training() { # DIR
    [ -e "$1/.done" ] || [ -e "$1/pl_state" ] || [ -e "$1/decode" ] ||
        compgen -G "$1/*.pth" >/dev/null
}

# Makes room in DIR for the training that KEY stands for. What was trained there with
# other options or data is set aside, after the new options have been checked, and
# comes back if its own are asked for again.
make_room() { # DIR KEY COMMAND...
    local dir=$1 key=$2 place=${1%/*}/.check.${1##*/} ngpu=0
    if [ -e "$dir/.lock" ] && ! flock -n "$dir/.lock" true; then
        die "another run trains in $dir: $(cat "$dir/.lock")"
    fi
    bring_back "$dir" "$key"
    holds_training "$dir" || return 0
    if has_key "$dir/.started" "$key" && [ "$force" = false ]; then
        return
    fi
    rm -rf "$place"
    job train_cmd "$place/check.log" -- "${@:3}" --ngpu 0 --dry_run true \
        --output_dir "$place" || die "$dir stays as it is: the new options are refused"
    rm -rf "$place"
    explain "$dir/.started" "$key" "$dir"
    set_aside "$dir"
}

# Shares the processors (--nj) among JOBS, of which POOL run at a time, unless the user
# has set OMP_NUM_THREADS. Three jobs and two processors: one thread each. A job gets
# four at most: the models trained without a GPU are small.
share_threads() { # JOBS POOL
    local threads=$((nj / ($1 < $2 ? $1 : $2)))
    threads=$((threads < 1 ? 1 : threads > 4 ? 4 : threads))
    [ -n "$threads_given" ] || [ "$ngpu" -gt 0 ] || export OMP_NUM_THREADS=$threads
}

# One training run of the system that DIR is named after, resumed where it was stopped
# before. Its key is its command line, its configuration and its data.
train_run() { # DIR SEED MODULE INPUT_FILES [EXTRA_ARGUMENT]...
    local dir=$1 config=$conf/${1##*/}.yaml seed=$2 module=$3 inputs=$4 key number=1
    shift 4
    local -a files extra command
    read -r -a files <<<"$inputs"
    files+=("$config" "$tokens" "$dump/.contents" "$stats"/{train,valid}/speech_shape
        "$stats"/{train,valid}/"text_shape.$token_type")
    [ "$feats_normalize" != global_mvn ] || files+=("$stats/train/feats_stats.npz")
    mapfile -t extra < <(split_words "$train_args")
    command=(--config "$config" "${model_options[@]}"
        --train_shape_file "$stats/train/speech_shape"
        --train_shape_file "$stats/train/text_shape.$token_type"
        --valid_shape_file "$stats/valid/speech_shape"
        --valid_shape_file "$stats/valid/text_shape.$token_type"
        "${normalize_options[@]}"
        --seed "$seed" --resume true --output_dir "$dir" "${extra[@]}" "$@")
    key=$(command_options --module "$module" "${command[@]}")
    command=("$PYTHON" -m "$module" "${command[@]}")
    if [ "$dry_run" != true ]; then
        key=$(make_key "$key" "${files[@]}")
        make_room "$dir" "$key" "${command[@]}"
        if has_key "$dir/.done" "$key"; then
            echo "  unchanged since it was done: $dir (--force true does it again)"
            return
        fi
        write_stamp "$dir/.started" "$key"
        if [ -e "$dir/train.log" ]; then
            while [ -e "$dir/train.$number.log" ]; do number=$((number + 1)); done
            mv "$dir/train.log" "$dir/train.$number.log"
        fi
    fi
    command+=(--ngpu "$ngpu")
    [ "$ngpu" -le 1 ] || command+=(--multiprocessing_distributed true)
    job train_cmd "$dir/train.log" -- "${command[@]}"
    [ "$dry_run" = true ] || write_stamp "$dir/.done" "$key"
}

# Decodes the dev and test sets with the stock ESPnet decoder; goes on where it was
# stopped before.
decode_run() { # DIR
    # ESPnet decodes with one GPU at most.
    local dir=$1 out=$1/decode ngpu=$((ngpu > 0)) key parts=$inference_nj
    local -a files extra
    files=("$dir/config.yaml" "$dir/$inference_model" "$inference_config"
        "$dump"/org/{dev,test})
    if [ "$dry_run" != true ]; then
        key=$(make_key "$(options inference_args)" "${files[@]}")
        bring_back "$out" "$key"
        if [ "$force" = true ] || ! has_key "$out/.started" "$key"; then
            [ ! -e "$out" ] || explain "$out/.started" "$key" "$out"
            [ ! -e "$out" ] || set_aside "$out"
        elif has_key "$out/.done" "$key"; then
            echo "  unchanged since it was done: $out (--force true does it again)"
            return
        fi
        write_stamp "$out/.started" "$key"
    fi
    run "$PYTHON" local/merge_decode.py --rest "$out" --scp "$dump/eval/wav.scp" \
        --parts "$inference_nj"
    mapfile -t extra < <(split_words "$inference_args")
    [ "$dry_run" = true ] || parts=$(find "$out/keys" -name 'keys.*' | wc -l)
    [ "$parts" -eq 0 ] || job decode_cmd "$out/log/decode.JOB.log" "JOB=1:$parts" -- \
        "$PYTHON" local/espnet_command.py asr_inference --config "$inference_config" \
        --data_path_and_name_and_type "$dump/eval/wav.scp,speech,sound" \
        --key_file "$out/keys/keys.JOB" --asr_train_config "$dir/config.yaml" \
        --asr_model_file "$dir/$inference_model" --output_dir "$out/JOB" \
        --ngpu "$ngpu" "${extra[@]}"
    run "$PYTHON" local/merge_decode.py --dir "$out" --scp "$dump/eval/wav.scp"
    [ "$dry_run" = true ] || write_stamp "$out/.done" "$key"
}

# True if a configuration says itself what it starts from. A dry run joins it too.
sets_init_param() { # FILE
    "$PYTHON" local/join_config.py "$1" | grep '^init_param:' >/dev/null
}

# Stage 9: the control and every PL run of every seed, train_jobs at a time. All start
# from the warm-up, except configurations that set init_param themselves.
train_all_pl() {
    local seed dir init oracle=() i name
    local -a extra control_extra start
    mapfile -t extra < <(split_words "$pl_args")
    mapfile -t control_extra < <(split_words "$control_args")
    [ ! -e "$dump/unlabeled/text.oracle" ] ||
        oracle=(--unlabeled_oracle_text "$dump/unlabeled/text.oracle")
    for seed in "${seeds[@]}"; do
        need 8 "$exp/seed$seed/warmup/$init_model"
    done
    [ "$run_control" = false ] || join_config control "$control_config"
    for i in "${!pl_configs[@]}"; do
        join_config "${pl_names[i]}" "${pl_configs[i]}"
    done
    follow train --exp "$exp" --seeds "${seeds[@]}" --systems control "${pl_names[@]}"
    share_threads $((${#seeds[@]} * (${#systems[@]} - 1))) "$train_jobs"
    for seed in "${seeds[@]}"; do
        dir=$exp/seed$seed init=$exp/seed$seed/warmup/$init_model
        if [ "$run_control" = true ]; then
            pool_add "$train_jobs" "seed$seed/control" train_run "$dir/control" \
                "$seed" espnet_softpl.bin.train "$init" \
                --init_param "$init" "${control_extra[@]}"
        fi
        for i in "${!pl_configs[@]}"; do
            name=${pl_names[i]} start=("$init" --init_param "$init")
            ! sets_init_param "${pl_configs[i]}" || start=("")
            pool_add "$train_jobs" "seed$seed/$name" train_run "$dir/$name" \
                "$seed" espnet_softpl.bin.train "${start[@]}" \
                "${oracle[@]}" \
                --unlabeled_data_path_and_name_and_type \
                "$dump/unlabeled/wav.scp,speech,sound" \
                --unlabeled_shape_file "$stats/unlabeled/speech_shape" "${extra[@]}"
        done
    done
    pool_wait
    unfollow
}

# Stage 10: every system of every seed.
decode_all() {
    local seed name
    run "$PYTHON" local/merge_decode.py --source "$dump/org/dev" "$dump/org/test" \
        --out "$dump/eval"
    share_threads $((${#seeds[@]} * ${#systems[@]})) "$decode_jobs"
    follow decode --scp "$dump/eval/wav.scp" --exp "$exp" --seeds "${seeds[@]}" \
        --systems "${systems[@]}"
    for seed in "${seeds[@]}"; do
        for name in "${systems[@]}"; do
            pool_add "$decode_jobs" "seed$seed/$name" decode_run "$exp/seed$seed/$name"
        done
    done
    pool_wait
    unfollow
}

# Stage 11: tables and plots of every system that was decoded.
score_all() {
    local file scored inputs=("$dump"/org/{dev,test}/{text,utt2set})
    for file in "$exp"/seed*/*/{checkpoint.pth,decode/text}; do
        [[ ! -e $file || $file == *.previous*/* ]] || inputs+=("$file")
    done
    scored=$(command_options --seeds "${seeds[@]}" --systems "${systems[@]}")
    changed "$exp/.scored" "$scored" "${inputs[@]}" || return 0
    run "$PYTHON" local/results.py --exp "$exp" --dump "$dump" --fs "$fs" \
        --seeds "${seeds[@]}" --systems "${systems[@]}" --command "$command_line"
    mark_done "$exp/.scored" "$scored" "${inputs[@]}"
}

# Stage 12: a stock ESPnet archive of one system, first seed.
pack_model() {
    local dir=$exp/seed${seeds[0]}/$pack_system ngpu=0 packed
    local archive=$dir/$pack_system.zip
    packed=$(options pack_system inference_model)
    if changed "$dir/.packed" "$packed" "$dir/config.yaml" "$dir/$inference_model"; then
        job train_cmd "$dir/pack.log" -- "$PYTHON" -m espnet_softpl.bin.export \
            --asr_exp "$dir" --student "$inference_model" --out "$archive"
        mark_done "$dir/.packed" "$packed" "$dir/config.yaml" "$dir/$inference_model"
    fi
    echo "  $archive"
}
