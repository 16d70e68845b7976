#!/usr/bin/env bash
# A stand-in for the asr.sh of an ESPnet recipe: stages 10 to 14 start the same commands
# with the same options (characters, raw audio, no language model). Data, tokens and
# the job script utils/run.pl are there already; sclite is left out.
set -euo pipefail

stage=10 stop_stage=14 ngpu=0 num_nodes=1 nj=2 inference_nj=1 fs=16k lang=noinfo
python=python3 dumpdir=dump expdir=exp
asr_config='' asr_args='' asr_exp='' asr_stats_dir=''
pretrained_model='' ignore_init_mismatch=false
feats_normalize=global_mvn inference_config='' inference_args=''
inference_asr_model=valid.acc.ave.pth
train_set='' valid_set='' test_sets=''

while [ $# -gt 0 ]; do
    name=${1#--}
    name=${name//-/_}
    if [[ $1 != --* ]] || [ -z "${!name+set}" ]; then
        echo "$0: unknown option $1" >&2
        exit 2
    fi
    printf -v "$name" '%s' "$2"
    shift 2
done

# shellcheck source=/dev/null
. ./path.sh
# shellcheck source=/dev/null
. ./cmd.sh
: "${train_cmd:?} ${decode_cmd:?} ${cuda_cmd:?}"

data=$dumpdir/raw
token_list=data/${lang}_token_list/char/tokens.txt
tag=$(basename "$asr_config" .yaml)_raw_${lang}_char
asr_exp=${asr_exp:-$expdir/asr_$tag}
asr_stats_dir=${asr_stats_dir:-$expdir/asr_stats_raw_${lang}_char}
inference_tag=inference_asr_model_${inference_asr_model%.pth}
text_options=(--token_type char --non_linguistic_symbols none --cleaner none)
common=(--use_preprocessor true --bpemodel none --token_list "$token_list" --g2p none)

runs() { # STAGE
    [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ]
}

# Deals the lines of FILE out to NAME.1.scp ... NAME.N.scp.
deal() { # FILE NAME N
    awk -v name="$2" -v n="$3" '{ print > (name "." 1 + NR % n ".scp") }' "$1"
}

if runs 10; then
    logdir=$asr_stats_dir/logdir
    mkdir -p "$logdir"
    deal "$data/$train_set/wav.scp" "$logdir/train" "$nj"
    deal "$data/$valid_set/wav.scp" "$logdir/valid" "$nj"
    opts="--config $asr_config --frontend_conf fs=$fs"
    for part in "train $train_set" "valid $valid_set"; do
        option=--${part% *}_data_path_and_name_and_type
        opts+=" $option $data/${part#* }/wav.scp,speech,sound"
        opts+=" $option $data/${part#* }/text,text,text"
    done
    # shellcheck disable=SC2086  # As in asr.sh: words of these are words of the command.
    $train_cmd "JOB=1:$nj" "$logdir/stats.JOB.log" \
        $python -m espnet2.bin.asr_train --collect_stats true \
        "${common[@]}" "${text_options[@]}" \
        --train_shape_file "$logdir/train.JOB.scp" \
        --valid_shape_file "$logdir/valid.JOB.scp" \
        --output_dir "$logdir/stats.JOB" $opts $asr_args
    dirs=''
    for number in $(seq "$nj"); do
        dirs+=" --input_dir $logdir/stats.$number"
    done
    # shellcheck disable=SC2086
    $python -m espnet2.bin.aggregate_stats_dirs $dirs --output_dir "$asr_stats_dir"
    for part in train valid; do
        awk -v n="$(wc -l <"$token_list")" '{ print $0 "," n }' \
            "$asr_stats_dir/$part/text_shape" >"$asr_stats_dir/$part/text_shape.char"
    done
fi

if runs 11; then
    mkdir -p "$asr_exp"
    opts="--config $asr_config --frontend_conf fs=$fs"
    if [ "$feats_normalize" = global_mvn ]; then
        opts+=" --normalize=global_mvn"
        opts+=" --normalize_conf stats_file=$asr_stats_dir/train/feats_stats.npz"
    fi
    opts+=" --train_data_path_and_name_and_type $data/$train_set/wav.scp,speech,sound"
    opts+=" --train_shape_file $asr_stats_dir/train/speech_shape --fold_length 150"
    opts+=" --train_data_path_and_name_and_type $data/$train_set/text,text,text"
    opts+=" --train_shape_file $asr_stats_dir/train/text_shape.char"
    opts+=" --valid_data_path_and_name_and_type $data/$valid_set/text,text,text"
    opts+=" --valid_shape_file $asr_stats_dir/valid/text_shape.char"
    # shellcheck disable=SC2086
    $python -m espnet2.bin.launch \
        --cmd "$cuda_cmd --name $asr_exp/train.log" --log "$asr_exp/train.log" \
        --ngpu "$ngpu" --num_nodes "$num_nodes" \
        --init_file_prefix "$asr_exp/.dist_init_" \
        --multiprocessing_distributed true -- \
        $python -m espnet2.bin.asr_train \
        "${common[@]}" "${text_options[@]}" \
        --valid_data_path_and_name_and_type "$data/$valid_set/wav.scp,speech,sound" \
        --valid_shape_file "$asr_stats_dir/valid/speech_shape" --resume true \
        ${pretrained_model:+--init_param $pretrained_model} \
        --ignore_init_mismatch "$ignore_init_mismatch" --fold_length 80000 \
        --output_dir "$asr_exp" $opts $asr_args
fi

for dset in $test_sets; do
    dir=$asr_exp/$inference_tag/$dset
    if runs 12; then
        mkdir -p "$dir/logdir"
        deal "$data/$dset/wav.scp" "$dir/logdir/keys" "$inference_nj"
        # shellcheck disable=SC2086
        $decode_cmd --gpu 0 "JOB=1:$inference_nj" "$dir/logdir/asr_inference.JOB.log" \
            $python -m espnet2.bin.asr_inference --batch_size 1 --ngpu 0 \
            --data_path_and_name_and_type "$data/$dset/wav.scp,speech,sound" \
            --key_file "$dir/logdir/keys.JOB.scp" \
            --asr_train_config "$asr_exp/config.yaml" \
            --asr_model_file "$asr_exp/$inference_asr_model" \
            --output_dir "$dir/logdir/output.JOB" \
            ${inference_config:+--config $inference_config} $inference_args
        sort -k1 "$dir"/logdir/output.*/1best_recog/text >"$dir/text"
    fi
    if runs 13; then
        mkdir -p "$dir/score_cer"
        for side in "ref $data/$dset/text" "hyp $dir/text"; do
            # shellcheck disable=SC2086
            paste <($python -m espnet2.bin.tokenize_text -f 2- --input - --output - \
                "${text_options[@]}" --remove_non_linguistic_symbols true \
                <"${side#* }") \
                <(awk '{ print "(" $1 ")" }' "${side#* }") \
                >"$dir/score_cer/${side% *}.trn"
        done
    fi
done

if runs 14; then
    # shellcheck disable=SC2086
    $python -m espnet2.bin.pack asr --asr_train_config "$asr_exp/config.yaml" \
        --asr_model_file "$asr_exp/$inference_asr_model" \
        --option "$asr_stats_dir/train/feats_stats.npz" \
        --outpath "$asr_exp/${asr_exp##*/}_${inference_asr_model%.*}.zip"
fi
