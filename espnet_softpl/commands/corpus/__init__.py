"""Embedded corpora in LibriSpeech's layout; needs numpy, scipy and soundfile only."""
