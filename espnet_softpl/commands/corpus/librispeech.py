"""Writes corpora in LibriSpeech's directory layout, each speaker all or nothing.

The layout, under one root:

    SPEAKERS.TXT
    <set>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance, 4 digits>.flac
    <set>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

CHAPTER = "1"


"""The one chapter of every speaker."""


_TRANSCRIPT = re.compile(r"[A-Z']+( [A-Z']+)*")


class CorpusError(Exception):
    """A corpus cannot be built; the message is meant for the user."""


@dataclass(frozen=True)
class Speaker:
    """One speaker to build.

    Attributes:
        set_name: Name of the set, the first directory level.
        speaker: Numeric id, unique in the corpus.
        sex: ``M``, ``F`` or ``U`` (unknown).
        name: Free text for the last column of SPEAKERS.TXT, without ``|``.
        utterances: How many utterances to make, 1 to 10000.
    """

    set_name: str
    speaker: int
    sex: str
    name: str
    utterances: int

    def directory(self, root: Path) -> Path:
        """Returns the directory of this speaker under a corpus root."""
        return root / self.set_name / str(self.speaker)


@dataclass(frozen=True)
class Utterance:
    """One utterance.

    Attributes:
        text: Upper-case words, A-Z and apostrophe, separated by single spaces.
        samples: Mono audio, 16 bit integers of shape (num_samples,).
    """

    text: str
    samples: np.ndarray


def write_speaker(
    root: Path,
    partial: Path,
    speaker: Speaker,
    utterances: Iterable[Utterance],
    sample_rate: int,
) -> None:
    """Writes a speaker under a temporary name and renames it into place.

    Args:
        root: Root of the corpus.
        partial: Directory for unfinished speakers, on the same file system.
        speaker: Who speaks.
        utterances: What the speaker says, in order.
        sample_rate: Samples per second of the audio.

    Raises:
        ValueError: If a transcript or the audio is not in the form above.
    """
    temporary = partial / f"{speaker.set_name}-{speaker.speaker}-{os.getpid()}"
    # A killed build may have had the same process number.
    shutil.rmtree(temporary, ignore_errors=True)
    chapter = temporary / CHAPTER
    chapter.mkdir(parents=True)
    stem = f"{speaker.speaker}-{CHAPTER}"
    lines = []
    for index, utterance in enumerate(utterances):
        name = f"{stem}-{index:04d}"
        _check(name, utterance)
        path = chapter / f"{name}.flac"
        soundfile.write(path, utterance.samples, sample_rate, subtype="PCM_16")
        lines.append(f"{name} {utterance.text}\n")
    transcript = chapter / f"{stem}.trans.txt"
    transcript.write_text("".join(lines), encoding="utf-8")
    final = speaker.directory(root)
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.replace(temporary, final)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # A process that outlived a killed build has just finished the same speaker.
        shutil.rmtree(temporary)


def _check(name: str, utterance: Utterance) -> None:
    if not _TRANSCRIPT.fullmatch(utterance.text):
        raise ValueError(f"{name}: transcript {utterance.text!r} is not A-Z words")
    samples = utterance.samples
    if samples.dtype != np.int16 or samples.ndim != 1 or not samples.any():
        raise ValueError(f"{name}: audio is silent or not 16 bit mono")


def to_int16(signal: np.ndarray) -> np.ndarray:
    """Returns 16 bit integers of a signal in [-1, 1], turned down if it is louder."""
    peak = np.abs(signal).max()
    signal = signal * (0.95 / max(peak, 0.95))
    return np.round(signal * 32767).astype(np.int16)


def speaker_seconds(root: Path, speaker: Speaker) -> float:
    """Returns the seconds of audio of a finished speaker, from the file headers."""
    files = sorted(speaker.directory(root).glob("*/*.flac"))
    return sum(soundfile.info(path).duration for path in files)


def write_speakers_txt(
    root: Path, title: str, speakers: Sequence[Speaker], seconds: Sequence[float]
) -> None:
    """Writes SPEAKERS.TXT in LibriSpeech's format.

    Args:
        root: Root of the corpus.
        title: First comment line: what the corpus is.
        speakers: Every speaker of the corpus.
        seconds: Seconds of audio of each speaker, in the same order.
    """
    width = max(len(speaker.set_name) for speaker in speakers)
    lines = [
        f"; {title}",
        "; Format: ID | SEX | SUBSET | MINUTES | NAME",
        f";{'ID':<5}| SEX | {'SUBSET':<{width}} | MINUTES | NAME",
    ]
    for speaker, duration in zip(speakers, seconds, strict=True):
        lines.append(
            f"{speaker.speaker:<6}| {speaker.sex:<3} | {speaker.set_name:<{width}} "
            f"| {duration / 60:<7.2f} | {speaker.name}"
        )
    write_text(root / "SPEAKERS.TXT", "\n".join(lines) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file under a temporary name and renames it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
