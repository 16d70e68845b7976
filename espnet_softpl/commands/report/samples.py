"""Labels of single utterances: word by word against others, and how they sound."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import kaldialign
import numpy as np
import soundfile

from espnet_softpl.commands.experiment import Experiment
from espnet_softpl.commands.scoring import to_units
from espnet_softpl.data.audio import open_audio, read_header
from espnet_softpl.data.scan import speech_scp

OPTION = "unlabeled_data_path_and_name_and_type"


class Word(NamedTuple):
    """A word of a label, with what is to be seen of it."""

    text: str
    # `right`, `wrong` (another word is true), `extra` (none is), `missing` (it is true,
    # and not in the label), `gone` (it was in the label before), or `plain` if the
    # truth is not known.
    kind: str
    changed: bool = False  # Whether it was not so in the label before.
    truth: str = ""  # The true word in place of one that is wrong.


def compare(label: str, truth: str | None, before: str | None) -> list[Word]:
    """Compare a label with the truth (None: not known) and with the label before it.

    Words that are missing or gone stand in their places among those of the label.
    """
    words = label.split()
    # What is not known is compared as if it were the same.
    true, missing = _align(label if truth is None else truth, words)
    old, gone = _align(label if before is None else before, words)
    compared: list[Word] = []
    for place, word in enumerate([*words, None]):
        lost = gone[place]
        if word is not None and old[place] not in (None, word):
            lost.append(old[place])
        for absent in missing[place]:
            compared.append(Word(absent, "missing", absent in lost))
            if absent in lost:
                lost.remove(absent)
        compared += [Word(text, "gone", True) for text in lost]
        if word is not None:
            wanted, kind = true[place], "plain" if truth is None else "right"
            if wanted != word:
                kind = "extra" if wanted is None else "wrong"
            right = wanted if kind == "wrong" else ""
            compared.append(Word(word, kind, old[place] != word, right))
    return compared


def _align(
    reference: str, words: Sequence[str]
) -> tuple[list[str | None], list[list[str]]]:
    """Return each word's partner in a reference, and words there without, by place.

    For "A B C" and ["A", "X"]: partners ["A", "B"], unmatched [[], [], ["C"]].
    """
    gap = "\0"  # No word has it.
    partners: list[str | None] = []
    unmatched: list[list[str]] = [[] for _ in range(len(words) + 1)]
    for expected, word in kaldialign.align(reference.split(), list(words), gap):
        if word == gap:
            unmatched[len(partners)].append(expected)
        else:
            partners.append(None if expected == gap else expected)
    return partners, unmatched


def thin(rows: Sequence[Any], most: int = 6) -> list[Any]:
    """Return at most so many rows (at least 2), evenly spaced, both ends included."""
    places = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)
    return [rows[place] for place in places]


def error_rate(label: str, truth: str | None, unit: str = "word") -> float | None:
    """Return the error rate of a label in percent, None if the truth has no words."""
    reference, words = to_units(truth or "", unit), to_units(label, unit)
    if not reference:
        return None
    return 100.0 * kaldialign.edit_distance(reference, words)["total"] / len(reference)


class Recording(NamedTuple):
    """An utterance's entry in a table of audio."""

    entry: str
    kind: str  # One of `data.audio.AUDIO_KINDS`.
    seconds: float

    def embed(self) -> str:
        """Return the audio, its channels mixed, as a data URI of 16-bit FLAC."""
        with open_audio(self.entry, self.kind) as files:
            rate = files[0].samplerate
            parts = [file.read(dtype="float32", always_2d=True) for file in files]
        stream = io.BytesIO()
        audio = np.concatenate(parts, axis=1).mean(axis=1)
        soundfile.write(stream, audio, rate, format="FLAC", subtype="PCM_16")
        return "data:audio/flac;base64," + base64.b64encode(stream.getvalue()).decode()


def find_recordings(
    experiment: Experiment, utterances: Collection[str]
) -> dict[str, Recording]:
    """Find the audio of utterances among the unlabeled data; features are left out."""
    specs = [
        (str(experiment.find(path) or path), *rest)
        for path, *rest in experiment.config.get(OPTION) or ()
    ]
    if not (utterances and specs):
        return {}
    entries, kind = speech_scp(specs, OPTION)
    found = {}
    for key in sorted(entries.keys() & utterances):
        place = experiment.find(entries[key]) if kind == "sound" else None
        entry = str(place or entries[key])
        header = read_header(entry, kind)
        if header.rate:
            found[key] = Recording(entry, kind, header.length / header.rate)
    return found
