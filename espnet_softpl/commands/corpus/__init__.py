"""Corpora made here, in LibriSpeech's layout; numpy, scipy and soundfile suffice."""
