#!/usr/bin/env bash
# Trains a language model of a run's tokens with stock ESPnet, for conf/decode_lm.yaml.
# In the recipe's directory:
#   local/train_lm.sh TOKEN_DIR TEXT DEV_TEXT OUT [OPTION_OF_LM_TRAIN]...
# TOKEN_DIR is dump/<run>/token_list/char or bpe. TEXT and DEV_TEXT have an id and words
# a line. Writes OUT/config.yaml and OUT/valid.loss.ave.pth; goes on where it stopped.
set -euo pipefail

if [ $# -lt 4 ]; then
    sed -n '2,/^set/{s/^# \{0,1\}//p}' "$0" >&2
    exit 2
fi
token_dir=$1 text=$2 dev_text=$3 out=$4
shift 4
# shellcheck source=../path.sh
. ./path.sh
for file in "$token_dir/tokens.txt" "$text" "$dev_text"; do
    [ -s "$file" ] || { echo "train_lm.sh: error: there is no '$file'" >&2; exit 2; }
done
type=char bpemodel=none
if [ -e "$token_dir/bpe.model" ]; then
    type=bpe bpemodel=$token_dir/bpe.model
fi
options=(--config conf/train_lm.yaml --token_type "$type" --bpemodel "$bpemodel"
    --token_list "$token_dir/tokens.txt" --cleaner none --g2p none
    --non_linguistic_symbols none
    --train_data_path_and_name_and_type "$text,text,text"
    --valid_data_path_and_name_and_type "$dev_text,text,text")
stats=$out/stats
if [ ! -e "$stats/.done" ]; then
    # ESPnet wants a list of utterances; their lengths are what it is to find.
    mkdir -p "$stats"
    cut -d ' ' -f 1 "$text" | sed 's/$/ 1/' >"$stats/train.keys"
    cut -d ' ' -f 1 "$dev_text" | sed 's/$/ 1/' >"$stats/valid.keys"
    "$PYTHON" -m espnet2.bin.lm_train --collect_stats true "${options[@]}" \
        --train_shape_file "$stats/train.keys" --valid_shape_file "$stats/valid.keys" \
        --output_dir "$stats" "$@" --ngpu 0
    # ESPnet counts batch sizes from "length,vocabulary size".
    vocab=$(wc -l <"$token_dir/tokens.txt")
    for part in train valid; do
        sed "s/\$/,$vocab/" "$stats/$part/text_shape" >"$stats/$part/text_shape.$type"
    done
    touch "$stats/.done"
fi
exec "$PYTHON" -m espnet2.bin.lm_train "${options[@]}" --resume true --output_dir "$out" \
    --train_shape_file "$stats/train/text_shape.$type" \
    --valid_shape_file "$stats/valid/text_shape.$type" "$@"
