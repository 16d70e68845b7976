# Connected digits of real voices, made from a directory of free-spoken-digit recordings
# (--digits DIR): either its own layout, recordings/*.wav, or LibriSpeech's. Three
# speakers are labeled; the model is adapted to three others, of whom some recordings
# are unlabeled, others for dev and test. CC BY-SA 4.0.
# shellcheck shell=bash disable=SC2034
corpus_kind=digits
corpus_args="--train-labeled george theo yweweler \
--train-unlabeled jackson:25-49 lucas:25-49 nicolas:25-49 \
--dev jackson:15-24 lucas:15-24 nicolas:15-24 \
--test jackson:0-14 lucas:0-14 nicolas:0-14 \
--train-labeled-utterances 80 --train-unlabeled-utterances 150 \
--dev-utterances 20 --test-utterances 30"
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
warmup_config=conf/train_warmup_words.yaml
# Found on dev of commands_ar (docs/study.md).
pl_config="hard_ctc soft_ctc"
pl_args="--optim_conf lr=0.002"
control_args="--optim_conf lr=0.002"
