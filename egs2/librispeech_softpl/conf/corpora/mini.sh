# Synthesized speech (eSpeak NG): few labeled voices, many other unlabeled ones, dev and
# test on voices never heard in training. No download; minutes on two processors.
# shellcheck shell=bash disable=SC2034
corpus_kind=mini
labeled_sets="train-labeled"
unlabeled_sets="train-unlabeled"
dev_sets="dev"
test_sets="test"
speed_perturb_factors="0.9 1.0 1.1"
feats_normalize=utterance_mvn
