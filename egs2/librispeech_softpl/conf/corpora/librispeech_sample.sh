# A small sample of LibriSpeech, for trying real speech without a GPU:
#   --librispeech "DIR1 DIR2"
# with the sets train-clean-100 (labeled), train-clean-100-unlabeled (no transcripts)
# and test-other, whose speakers are halved into dev and test.
# shellcheck shell=bash disable=SC2034
corpus_kind=librispeech
labeled_sets="train-clean-100"
unlabeled_sets="train-clean-100-unlabeled"
dev_sets="test-other:0/2"
test_sets="test-other:1/2"
