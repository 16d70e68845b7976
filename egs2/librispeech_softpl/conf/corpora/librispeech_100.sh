# LibriSpeech: 100 h labeled, 860 h unlabeled. --librispeech DIR names a copy; without
# it the seven archives (60 GB) are downloaded from openslr.org.
# shellcheck shell=bash disable=SC2034
corpus_kind=librispeech
labeled_sets="train-clean-100"
unlabeled_sets="train-clean-360 train-other-500"
dev_sets="dev-clean dev-other"
test_sets="test-clean test-other"
