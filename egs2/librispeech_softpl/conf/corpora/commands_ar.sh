# Connected words of 30 real speakers, joined from the Arabic Speech Commands: 40 words,
# ten times each (--words DIR, a checkout of abdulkaderghandoura/arabic-speech-commands-
# dataset, commit 72f3438). CC BY 4.0. The transcripts are a romanization of the words.
# shellcheck shell=bash disable=SC2034
corpus_kind=words
corpus_args="--table conf/corpora/commands_ar.tsv --labeled_speakers 10 \
--unlabeled_speakers 10 --dev_speakers 4 --test_speakers 6 --labeled_words 27 \
--dev_words 145 --test_words 145"
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
