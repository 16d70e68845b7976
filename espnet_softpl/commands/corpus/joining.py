"""What corpora have in common that are joined from recordings of single words."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from espnet_softpl.commands.corpus.acoustics import resample
from espnet_softpl.commands.corpus.build import CorpusError, Speaker

_FRAME_SECONDS = 0.01
_SHARE_OF_RANGE = 0.35  # Of the decibels from background to peak: above is the word.
_RANGE_DB = 40.0  # What is softer than the peak by more than this is background.
_WORD_DB = 6.0  # What is within this of the peak is the word.
_SILENT_DB = -60.0  # Of full scale: recordings whose peak is below hold no word.
_SHORTEST_SECONDS = 0.1  # A word is longer; a click is not.
_FADE_SECONDS = 0.005  # Two backgrounds meet without a click.


class Recording(NamedTuple):
    """One spoken word."""

    word: str  # As it is in the transcript.
    path: Path


Recordings = Mapping[str, Sequence[Recording]]  # By speaker.


@dataclass(frozen=True)
class RecordedSpeaker(Speaker):
    """A speaker with recordings."""

    seed: int  # Of the corpus.
    recordings: tuple[Recording, ...]  # What the utterances are joined from.
    sample_rate: int  # Of the utterances.
    resample: bool  # Whether recordings may have another sampling rate.

    def draw(self) -> np.random.Generator:
        """Return what draws this speaker's utterances, whoever the others are."""
        return np.random.default_rng((self.seed, zlib.crc32(self.name.encode())))

    def read(self, path: Path) -> np.ndarray:
        """Return a recording at the utterances' rate, shape (num_samples,)."""
        with reading(path):
            audio, rate = soundfile.read(path)
        if audio.ndim != 1 or not audio.any() or not np.isfinite(audio).all():
            raise CorpusError(f"{path} is silent, not mono or not finite")
        if rate == self.sample_rate:
            return audio
        if not self.resample:
            raise CorpusError(
                f"{path} has a sampling rate of {rate}, others of {self.sample_rate}: "
                "choose one with --rate"
            )
        return resample(audio, rate, self.sample_rate)


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong with a file into a CorpusError that names it."""
    try:
        yield
    except (OSError, soundfile.SoundFileError) as error:
        raise CorpusError(f"cannot read {path}: {error}") from error


def check_rate(sample_rate: int) -> None:
    """Raise a ValueError for a rate that speech is not recorded at."""
    if not 4000 <= sample_rate <= 96000:
        raise ValueError(f"sample rate must be 4000 to 96000, not {sample_rate}")


def fingerprint(directory: Path, recordings: Recordings) -> str:
    """Return a hash of the recordings' names, words and sizes."""
    digest = hashlib.sha256()
    for word, path in (each for some in recordings.values() for each in some):
        with reading(path):
            size = path.stat().st_size
        name = path.relative_to(directory).as_posix()
        digest.update(f"{name} {word} {size}\n".encode())
    return digest.hexdigest()[:16]


def find_word(samples: np.ndarray, sample_rate: int) -> tuple[int, int]:
    """Find the word in a recording of shape (num_samples,), by its energy.

    The softest tenth of its frames is background. With a background of -70 dB and a
    peak of -10 dB, the word goes from the first frame of -49 dB or more to the last.
    Returns its first sample, and the one after its last; ValueError, which says what
    there is, if there is no word.
    """
    length = int(_FRAME_SECONDS * sample_rate)
    count = len(samples) // length
    if count * _FRAME_SECONDS < _SHORTEST_SECONDS:
        raise ValueError(f"is too short: {len(samples) / sample_rate:.2f} s")
    frames = (samples - samples.mean())[: count * length].reshape(count, length)
    # The mean of three frames: single clicks count less.
    padded = np.pad(np.mean(frames**2, axis=1), 1, mode="edge")
    energy = np.convolve(padded, np.ones(3) / 3, "valid")
    level = 10 * np.log10(energy + 1e-10)
    peak, background = level.max(), np.percentile(level, 10)
    if peak < _SILENT_DB:
        raise ValueError(f"is silent: {peak:.0f} dB of full scale at most")
    threshold = max(
        background + _SHARE_OF_RANGE * (peak - background), peak - _RANGE_DB
    )
    loud = np.flatnonzero(level >= min(threshold, peak - _WORD_DB))
    start, end = int(loud[0]) * length, (int(loud[-1]) + 1) * length
    if end - start < _SHORTEST_SECONDS * sample_rate:
        raise ValueError(
            f"has no word, only {(end - start) / sample_rate:.2f} s of sound"
        )
    return start, end


def split(count: int, fewest: int, most: int, draw: np.random.Generator) -> list[int]:
    """Draw the sizes, `fewest` to `most`, of the utterances that `count` words make.

    Their sum is `count`, or the next smaller number that is possible: 11 words do not
    make utterances of 4 or 5 words, but 10 do, 5 + 5.
    """

    def possible(number: int) -> bool:
        return -(-number // most) * fewest <= number

    while not possible(count):
        count -= 1
    sizes: list[int] = []
    while count:
        choices = range(fewest, min(most, count) + 1)
        size = draw.choice([each for each in choices if possible(count - each)])
        sizes.append(int(size))
        count -= int(size)
    return sizes


def faded(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    """Return a copy of a recording that is faded in and out, to be joined to others."""
    ramp = np.linspace(0.0, 1.0, int(_FADE_SECONDS * sample_rate))
    samples = samples.copy()
    samples[: len(ramp)] *= ramp
    samples[-len(ramp) :] *= ramp[::-1]
    return samples
