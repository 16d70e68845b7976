# The mini corpus at a fraction of its size and a tiny model for two epochs: tests that
# every stage works; its error rates mean nothing.
# shellcheck shell=bash disable=SC2034
corpus_kind=mini
corpus_args="--scale 0.05"
labeled_sets="train-labeled"
unlabeled_sets="train-unlabeled"
dev_sets="dev"
test_sets="test"
train_args="--max_epoch 2 --num_iters_per_epoch 3 --encoder_conf output_size=32 \
--encoder_conf num_blocks=1 --encoder_conf linear_units=64 --batch_bins 500000"
