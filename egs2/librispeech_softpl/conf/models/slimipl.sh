# slimIPL: the authors' CTC Transformer of 36 blocks with characters, a frame in 30 ms.
# Two sets of configurations: for 10 h of labels (librilight_10) and for 100 h (others).
# shellcheck shell=bash disable=SC2034,SC2154
token_type=char
feats_normalize=utterance_mvn
config_dir=conf/models/slimipl/ls100
[ "$corpus" != librilight_10 ] || config_dir=conf/models/slimipl/ll10
warmup_config=$config_dir/train_warmup.yaml
pl_config="hard_ctc blend"
# The control costs as much as a PL run: --run_control true trains it.
run_control=false
control_config=$config_dir/train_control.yaml
