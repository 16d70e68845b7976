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
speed_perturb_factors="0.9 1.0 1.1"
feats_normalize=utterance_mvn
# Mini-batches of up to 50 s, 2400 of them to warm up and 960 to go on.
train_args="--batch_bins 800000 --valid_batch_bins 1600000 --num_iters_per_epoch 120"
pl_args="--max_epoch 8"
control_args="--max_epoch 8"
