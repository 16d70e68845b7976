# Libri-light's 10 h labeled, LibriSpeech's 960 h unlabeled (the labeled 10 h are part
# of them and are dropped there). --librispeech "LIBRISPEECH_DIR LIBRILIGHT_DIR" names
# copies, the second with the folders 1h and 9h; else both are downloaded (60 GB).
# shellcheck shell=bash disable=SC2034
corpus_kind=librispeech
labeled_sets="1h/0/clean 1h/0/other 1h/1/clean 1h/1/other 1h/2/clean 1h/2/other \
1h/3/clean 1h/3/other 1h/4/clean 1h/4/other 1h/5/clean 1h/5/other 9h/clean 9h/other"
unlabeled_sets="train-clean-100 train-clean-360 train-other-500"
dev_sets="dev-clean dev-other"
test_sets="test-clean test-other"
