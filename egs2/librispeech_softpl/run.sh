#!/usr/bin/env bash
# Continuous pseudo-labeling (hard and soft), from audio to error rates, in stages:
#   1 data    2 data directories    3 speed perturbation    4 audio formatting
#   5 length filter    6 token list    7 statistics    8 supervised warm-up
#   9 continuous PL training and the control    10 decoding    11 scoring    12 packing
# The default corpus, mini, is synthesized: no download, minutes on two processors.
# Run it in its own directory; paths are relative to that. Results: exp/<corpus>, and
# with --model exp/<corpus>_<model>.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# Options begin
# General
stage=1                 # first stage to run, 1 to 12
stop_stage=12           # last stage to run
corpus=mini             # preset in conf/corpora, or a name for your own data
model=                  # preset in conf/models (default: the small model of mini)
seeds="1"               # seeds of the trainings, one or more
seed=                   # the same as --seeds
ngpu=0                  # GPUs of each training and decoding
nj=2                    # processes that prepare data or decode; threads of a lone training
train_jobs=3            # trainings at a time, 1 with GPUs; systems decoded too, if given
force=false             # do a stage again though nothing changed
dry_run=false           # print the commands, run none
# Data
corpus_kind=            # mini, digits, words, librispeech or kaldi (default: as the data say)
corpus_args=            # more arguments for the maker of the corpus
librispeech=            # directories with sets in LibriSpeech layout
digits=                 # directory of free-spoken-digit recordings
words=                  # directory of recordings of single words, a folder each
labeled_sets=           # labeled sets; SET:I/N is the I-th of N parts by speaker
unlabeled_sets=         # unlabeled sets; their transcripts only measure
dev_sets=               # validation sets
test_sets=              # test sets
labeled_dir=            # your own Kaldi-style directory: labeled
unlabeled_dir=          # your own: unlabeled; wav.scp suffices
dev_dir=                # your own: validation
test_dirs=              # your own: test, one or more
allow_pipes=false       # run the commands in wav.scp of your own directories
# Audio
speed_perturb_factors=  # speeds of the labeled set, such as "0.9 1.0 1.1"
fs=16000                # sample rate in Hz
resample=false          # convert audio that has another rate
max_bad_share=0.01      # share of a set's audio that may be unusable
min_seconds=0.3         # shortest utterance to train on
max_seconds=30.0        # longest utterance to train on
# Tokens
token_type=char         # char or bpe
nbpe=500                # vocabulary size of bpe
lm_text=                # text of the bigram of tokens, with ids (default: the labeled)
feats_normalize=global_mvn  # global_mvn (by statistics of the labeled set) or utterance_mvn
# Training
warmup_config=conf/train_warmup.yaml    # supervised warm-up
control_config=conf/train_control.yaml  # its supervised continuation
base_init=              # FILE[:SOURCE:TARGET]: model that the warm-up starts from
run_control=true        # train the control too
pl_config="hard_ctc soft_ctc"           # X ($config_dir/train_pl_X.yaml) or YAML files
config_dir=conf/tuning                  # where the configurations named X are
init_model=valid.cer_ctc.ave.pth        # model of the warm-up that others start from
train_args=             # more arguments for every training
pl_args=                # more arguments for PL training
control_args=           # more arguments for the control
# Decoding and packing
inference_config=conf/decode.yaml       # decoding
inference_model=valid.cer_ctc.ave.pth   # model that is decoded and packed
inference_args=         # more arguments for decoding
inference_nj=1          # jobs per system
pack_system=            # what to pack: warmup, control or a PL name (default: first)
# Options end

. ./scripts/parse_options.sh
. ./scripts/functions.sh
. ./local/data.sh
. ./local/training.sh

for number in "$stage" "$stop_stage"; do
    [ "$number" -ge 1 ] && [ "$number" -le 12 ] ||
        die "stages go from 1 to 12, not $number"
done
[ "$stage" -le "$stop_stage" ] || die "--stage $stage is after --stop-stage $stop_stage"
[[ $token_type =~ ^(char|bpe)$ ]] || die "--token_type must be char or bpe"
[[ $feats_normalize =~ ^(global|utterance)_mvn$ ]] ||
    die "--feats_normalize must be global_mvn or utterance_mvn"
read -r -a seeds <<<"${seed:-$seeds}"
[ ${#seeds[@]} -gt 0 ] || die "--seeds names no seed"
for number in "${seeds[@]}"; do
    [[ $number =~ ^[0-9]+$ ]] || die "--seeds: '$number' is no whole number"
done
decode_jobs=$train_jobs
if [[ ! -v _given[train_jobs] ]]; then
    # Trainings share the processors until the last one ends; short jobs leave none idle.
    [ "$ngpu" -eq 0 ] && decode_jobs=$nj || train_jobs=1 decode_jobs=1
fi
for number in "$nj" "$train_jobs" "$inference_nj" "$fs"; do
    [ "$number" -ge 1 ] || die "--nj, --train_jobs, --inference_nj and --fs start at 1"
done
check_corpus_options
set_roots
pl_configs=() pl_names=()
for file in $pl_config; do
    [[ $file == *.yaml || $file == *.yml ]] || file=$config_dir/train_pl_$file.yaml
    name=$(basename "${file%.*}")
    pl_configs+=("$file") pl_names+=("${name#train_pl_}")
done
[ ${#pl_configs[@]} -gt 0 ] || die "--pl_config names no configuration"
for file in "$warmup_config" "$control_config" "$inference_config" "${pl_configs[@]}"
do
    [ -f "$file" ] || die "there is no configuration '$file'"
done
warmup_init=()
if [ -n "$base_init" ]; then
    [ -f "${base_init%%:*}" ] || die "--base_init: there is no model '${base_init%%:*}'"
    warmup_init=(--init_param "$base_init")
fi
systems=(warmup)
[ "$run_control" = false ] || systems+=(control)
systems+=("${pl_names[@]}")
[ "$(printf '%s\n' "${systems[@]}" | sort -u | wc -l)" -eq ${#systems[@]} ] ||
    die "two systems have the same name: ${systems[*]}"

# Models share the data directories; what depends on tokens and frames is their own.
run_name=$corpus${model:+_$model}
data=data/$corpus dump=dump/$run_name exp=exp/$run_name
conf=$exp/conf  # Configurations as ESPnet gets them, by system.
labeled=$data/labeled
[ -z "$speed_perturb_factors" ] || labeled=$data/labeled_sp
tokens=$dump/token_list/$token_type/tokens.txt
bpemodel=$dump/token_list/bpe/bpe.model
[ "$token_type" = char ] || tokens=$dump/token_list/bpe/tokens.txt
stats=$exp/stats_$token_type

. ./path.sh
. ./cmd.sh
trap 'on_exit $?' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
set_model_options

if begin_stage 1 "data of corpus $corpus"; then
    get_corpus
fi

if begin_stage 2 "labeled, unlabeled, dev and test directories in $data"; then
    need 1 "${roots[@]}"
    key=$(options corpus_kind {labeled,unlabeled,dev,test}_sets \
        {labeled,unlabeled,dev}_dir test_dirs)
    read -r -a inputs <<<"${roots[*]} $labeled_dir $unlabeled_dir $dev_dir $test_dirs"
    if changed "$data/.prepared" "$key" "${inputs[@]}"; then
        prepare_data
        mark_done "$data/.prepared" "$key" "${inputs[@]}"
    fi
fi

if begin_stage 3 "speed perturbation (${speed_perturb_factors:-none})"; then
    if [ -n "$speed_perturb_factors" ]; then
        need 2 "$data/labeled/wav.scp" "$data/.prepared"
        read -r -a factors <<<"$speed_perturb_factors"
        key=$(options speed_perturb_factors) audio=dump/$corpus/speed
        # Whoever removes dump keeps data, and the stamp in it.
        [ "$dry_run" = true ] || [ -d "$audio" ] || rm -f "$labeled/.done"
        if changed "$labeled/.done" "$key" "$data/.prepared"; then
            run "$PYTHON" local/perturb_speed.py --source "$data/labeled" --nj "$nj" \
                --target "$labeled" --audio "$audio" --factors "${factors[@]}"
            mark_done "$labeled/.done" "$key" "$data/.prepared"
        fi
    fi
fi

if begin_stage 4 "audio formatting into $dump/org"; then
    need 2 "$data/labeled/wav.scp" "$data/.prepared"
    [ "$labeled" = "$data/labeled" ] || need 3 "$labeled/.done"
    inputs=("$data/.prepared" "$labeled/wav.scp" "$data"/{unlabeled,dev,test}/wav.scp)
    key=$(options fs resample max_bad_share)
    if changed "$dump/.formatted" "$key" "${inputs[@]}"; then
        run "$PYTHON" local/format_audio.py --fs "$fs" --resample "$resample" \
            --nj "$nj" --max_bad_share "$max_bad_share" \
            --source "$labeled" "$data/unlabeled" "$data/dev" "$data/test" \
            --target "$dump"/org/{labeled,unlabeled,dev,test}
        mark_done "$dump/.formatted" "$key" "${inputs[@]}"
    fi
fi

if begin_stage 5 "removal of too long and too short utterances into $dump"; then
    need 4 "$dump/org/dev/wav.scp" "$dump/.formatted"
    key=$(options min_seconds max_seconds)
    if changed "$dump/.filtered" "$key" "$dump/.formatted"; then
        run rm -f "$dump/.contents"
        run "$PYTHON" local/filter_utterances.py --fs "$fs" \
            --min_seconds "$min_seconds" --max_seconds "$max_seconds" \
            --source "$dump"/org/{labeled,unlabeled,dev} \
            --target "$dump"/{labeled,unlabeled,dev}
        # What trainings depend on: the same data, prepared again, change nothing.
        mark_done "$dump/.contents" "" "$dump"/{labeled,unlabeled,dev}
        mark_done "$dump/.filtered" "$key" "$dump/.formatted"
    fi
fi

if begin_stage 6 "$token_type token list $tokens"; then
    need 5 "$dump/labeled/text" "$dump/.filtered"
    key=$(options token_type nbpe)
    if changed "${tokens%/*}/.done" "$key" "$dump/labeled/text"; then
        run ./local/tokens.sh "$token_type" "$dump/labeled/text" "$tokens" \
            "$bpemodel" "$nbpe"
        mark_done "${tokens%/*}/.done" "$key" "$dump/labeled/text"
    fi
    # The language model of presets with "lm: bigram.arpa".
    inputs=("${lm_text:-$dump/labeled/text}" "$tokens")
    if changed "${tokens%/*}/.bigram" "" "${inputs[@]}"; then
        count=(--text "${inputs[0]}" --token_list "$tokens" --token_type "$token_type")
        [ "$token_type" = char ] || count+=(--bpemodel "$bpemodel")
        run "$PYTHON" -m espnet_softpl.bin.token_lm "${count[@]}" \
            --out "${tokens%/*}/bigram.arpa"
        mark_done "${tokens%/*}/.bigram" "" "${inputs[@]}"
    fi
fi

if begin_stage 7 "statistics in $stats"; then
    need 5 "$dump/labeled/text" "$dump/.filtered"
    need 6 "$tokens"
    inputs=("$dump/.contents" "$tokens" "$conf/warmup.yaml")
    key=$(options train_args fs)
    join_config warmup "$warmup_config"
    if changed "$stats/.done" "$key" "${inputs[@]}"; then
        pool_add 1 statistics collect_stats "$stats"
        pool_wait
        mark_done "$stats/.done" "$key" "${inputs[@]}"
    fi
fi

if begin_stage 8 "supervised warm-up, seeds ${seeds[*]}"; then
    need 7 "$stats/train/feats_stats.npz" "$stats/.done"
    need 5 "$dump/.contents"
    join_config warmup "$warmup_config"
    follow train --exp "$exp" --seeds "${seeds[@]}" --systems warmup
    share_threads ${#seeds[@]} "$train_jobs"
    for seed in "${seeds[@]}"; do
        pool_add "$train_jobs" "seed$seed/warmup" train_run "$exp/seed$seed/warmup" \
            "$seed" espnet_softpl.bin.train "${base_init%%:*}" "${warmup_init[@]}"
    done
    pool_wait
    unfollow
fi

if begin_stage 9 "continuous PL training (${pl_names[*]}), control $run_control"; then
    need 7 "$stats/train/feats_stats.npz" "$stats/.done"
    need 5 "$dump/.contents"
    train_all_pl
fi

if begin_stage 10 "decoding of dev and test (${systems[*]})"; then
    need 4 "$dump/org/dev/wav.scp" "$dump/.formatted"
    for seed in "${seeds[@]}"; do
        for name in "${systems[@]}"; do
            [ "$name" = warmup ] && number=8 || number=9
            need "$number" "$exp/seed$seed/$name/$inference_model"
        done
    done
    decode_all
fi

if begin_stage 11 "scoring, $exp/RESULTS.md and report.html"; then
    for seed in "${seeds[@]}"; do
        need 10 "$exp/seed$seed/warmup/decode/text"
    done
    score_all
fi

if begin_stage 12 "packing of ${pack_system:=${pl_names[0]}}"; then
    need 9 "$exp/seed${seeds[0]}/$pack_system/$inference_model"
    pack_model
fi

end_stage
[ "$stop_stage" -lt 11 ] || [ "$dry_run" = true ] || cat "$exp/results.txt"
echo "run.sh: finished after $(clock "$SECONDS")"
