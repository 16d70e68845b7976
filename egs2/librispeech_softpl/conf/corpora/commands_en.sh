# Connected words of 213 real speakers, joined from the test set of Google's Speech
# Commands v0.02 (arXiv:1804.03209): 35 words (--words DIR, the folder
# MLTK_keyworkSpotting/dataset of thegtagamer/PICO-tinyML-benchmark, commit c66f6b0).
# CC BY 4.0.
# shellcheck shell=bash disable=SC2034
corpus_kind=words
corpus_args="--labeled_speakers 20 --dev_speakers 25 --test_speakers 30 \
--labeled_words 8"
labeled_sets="train-labeled"
unlabeled_sets="train-unlabeled"
dev_sets="dev"
test_sets="test"
speed_perturb_factors="0.9 1.0 1.1"
feats_normalize=utterance_mvn
warmup_config=conf/train_warmup_words.yaml
# Found on dev of commands_ar (docs/study.md).
pl_config="hard_ctc soft_ctc"
pl_args="--optim_conf lr=0.002"
control_args="--optim_conf lr=0.002"
