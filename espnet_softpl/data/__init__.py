"""Kaldi-style data: tables, audio of any form, what cannot be used."""
