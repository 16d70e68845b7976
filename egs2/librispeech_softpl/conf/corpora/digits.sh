# Connected digits of real voices, made from a directory of free-spoken-digit recordings
# (--digits DIR): either its own layout, recordings/*.wav, or LibriSpeech's.
# shellcheck shell=bash disable=SC2034
corpus_kind=digits
fs=8000
labeled_sets="train-labeled"
unlabeled_sets="train-unlabeled"
dev_sets="dev"
test_sets="test"
speed_perturb_factors="0.9 1.0 1.1"
feats_normalize=utterance_mvn
# Frames of 40 ms at 8 kHz, mini-batches of up to 19 s.
train_args="--frontend_conf n_fft=256 --frontend_conf win_length=200 \
--frontend_conf hop_length=80 --batch_bins 150000 --valid_batch_bins 600000"
