"""Corpora made here, in LibriSpeech's layout; numpy, scipy and soundfile suffice."""

SETS = ("train-labeled", "train-unlabeled", "dev", "test")  # None shares a speaker.
DEFAULT_UTTERANCES = dict(zip(SETS, (40, 200, 100, 100), strict=True))  # Of digits.
