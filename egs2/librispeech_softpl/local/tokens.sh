#!/usr/bin/env bash
# Stage 6: writes the token list of the labeled transcripts.
#   tokens.sh char TEXT TOKENS
#   tokens.sh bpe TEXT TOKENS BPE_MODEL SIZE
set -euo pipefail

type=$1 text=$2 tokens=$3
mkdir -p "$(dirname "$tokens")"
if [ "$type" = bpe ]; then
    "$PYTHON" local/train_bpe.py --text "$text" --tokens "$tokens" \
        --model "$4" --nbpe "$5"
    exit
fi
log=$(dirname "$tokens")/tokenize_text.log
echo "  log: $log"
if ! "$PYTHON" -m espnet2.bin.tokenize_text --token_type char --input "$text" \
    --output "$tokens.tmp" --field 2- --non_linguistic_symbols none --cleaner none \
    --g2p none --write_vocabulary true --add_symbol '<blank>:0' --add_symbol '<unk>:1' \
    --add_symbol '<sos/eos>:-1' >"$log" 2>&1; then
    tail -n 10 "$log" >&2
    exit 1
fi
mv "$tokens.tmp" "$tokens"
echo "$tokens: $(wc -l <"$tokens") tokens"
