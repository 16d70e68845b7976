# ESPnet's CTC Conformer of librispeech_100: 18 blocks, BPE, a frame in 32 ms.
# shellcheck shell=bash disable=SC2034,SC2154
token_type=bpe
nbpe=5000
speed_perturb_factors="0.9 1.0 1.1"
config_dir=conf/models/conformer_ctc
warmup_config=$config_dir/train_warmup.yaml
pl_config="hard_ctc soft_ctc"
# The control costs as much as a PL run: --run_control true trains it.
run_control=false
control_config=$config_dir/train_control.yaml
# 10 h have few words to learn pieces from, and less to say in each block.
if [ "$corpus" = librilight_10 ]; then
    nbpe=500
    pl_args="--pl_schedule_conf unlabeled_steps=10"
fi
