# Connected digits of real voices, made from a directory of free-spoken-digit recordings
# (--digits DIR): either its own layout, recordings/*.wav, or LibriSpeech's.
# shellcheck shell=bash disable=SC2034
corpus_kind=digits
fs=8000
labeled_sets="train-labeled"
unlabeled_sets="train-unlabeled"
dev_sets="dev"
test_sets="test"
