"""Connected digits: utterances joined from recordings of single spoken digits."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from espnet_softpl.commands.corpus.acoustics import to_int16
from espnet_softpl.commands.corpus.build import (
    Corpus,
    CorpusError,
    Speaker,
    Utterance,
)

FORMAT = 1  # Raised by every change that alters the audio or the text.
TITLE = "digits: connected digits, joined from recordings of single ones"
DIGITS = tuple("ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split())
SETS = ("train-labeled", "train-unlabeled", "dev", "test")  # None shares a speaker.
DEFAULT_UTTERANCES = dict(zip(SETS, (40, 200, 100, 100), strict=True))
# Ranges (low, high), drawn from evenly.
_DIGITS_PER_UTTERANCE = (3, 7)
_SILENCE_SECONDS = (0.05, 0.3)
_GAIN_DB = (-3.0, 3.0)
# Faint noise, this far below the speech: digital silence is not found in recordings.
_NOISE_DB = -50.0


class Recording(NamedTuple):
    """One spoken digit."""

    word: str  # Of DIGITS.
    path: Path


@dataclass(frozen=True)
class DigitSpeaker(Speaker):
    """A speaker with recordings."""

    seed: int  # Of the corpus.
    recordings: tuple[Recording, ...]  # What the utterances are joined from.
    sample_rate: int  # Of the utterances.
    resample: bool  # Whether recordings may have another sampling rate.


def find_recordings(directory: Path) -> dict[str, list[Recording]]:
    """Find recordings of single digits.

    Args:
        directory: Either in LibriSpeech's layout, with transcripts of one digit word
            each, or with files `{digit}_{speaker}_{index}.wav`, in itself or in
            `recordings`, as Jakobovski/free-spoken-digit-dataset has them.

    Returns:
        The recordings of each speaker, both sorted.

    Raises:
        CorpusError: There are none, or a transcript is not a digit.
    """
    if not directory.is_dir():
        raise CorpusError(f"{directory} is not a directory")
    by_speaker: dict[str, list[Recording]] = {}
    for transcript in sorted(directory.rglob("*.trans.txt")):
        lines = transcript.read_text("utf-8", errors="replace").splitlines()
        for number, line in enumerate(lines, start=1):
            name, _, word = line.partition(" ")
            if word not in DIGITS:
                raise CorpusError(
                    f"{transcript}, line {number}: {word!r} is not one of "
                    f"{' '.join(DIGITS)}"
                )
            recording = Recording(word, transcript.parent / f"{name}.flac")
            by_speaker.setdefault(name.split("-")[0], []).append(recording)
    for folder in (directory, directory / "recordings"):
        for path in sorted(folder.glob("[0-9]_*_*.wav")):
            digit, speaker = path.stem.rsplit("_", 1)[0].split("_", 1)
            recording = Recording(DIGITS[int(digit)], path)
            by_speaker.setdefault(speaker, []).append(recording)
    if not by_speaker:
        raise CorpusError(
            f"no recordings of digits in {directory}: neither *.trans.txt with audio "
            "beside it, nor files named {digit}_{speaker}_{index}.wav"
        )
    return dict(sorted(by_speaker.items()))


def digits_corpus(
    directory: Path,
    seed: int,
    speakers: Mapping[str, Sequence[str]],
    utterances: Mapping[str, int],
    sample_rate: int | None = None,
    female: Sequence[str] = (),
) -> Corpus:
    """Plan the corpus.

    Args:
        directory: Where the recordings are, see `find_recordings`.
        seed: Seed of everything random, >= 0.
        speakers: Names of the speakers of each set. If empty, the last speaker is
            for test, the last but one for dev, and the others are halved.
        utterances: Utterances of each speaker, for every set, 1 to 10000.
        sample_rate: Samples per second, by default the recordings' own.
        female: Speakers that SPEAKERS.TXT has as women, the others being men.

    Raises:
        ValueError: An option is illegal: a speaker without recordings or in two
            sets, a set without speakers, a number out of range.
        CorpusError: The recordings cannot be used.
    """
    recordings = find_recordings(directory)
    names = list(recordings)
    dealt = dict(speakers) or _deal(names)
    _check_options(names, dealt, utterances, sample_rate, female)
    first = recordings[names[0]][0].path
    with _reading(first):
        rate = sample_rate or soundfile.info(first).samplerate
    plan = [
        DigitSpeaker(
            set_name=set_name,
            speaker=names.index(name) + 1,
            sex="F" if name in female else "M",
            name=name,
            utterances=utterances[set_name],
            seed=seed,
            recordings=tuple(recordings[name]),
            sample_rate=rate,
            resample=sample_rate is not None,
        )
        for set_name in SETS
        for name in dealt[set_name]
    ]
    settings = {
        "format": FORMAT,
        "seed": seed,
        "speakers": {name: list(dealt[name]) for name in SETS},
        "utterances": {name: utterances[name] for name in SETS},
        "sample_rate": rate,
        "female": sorted(female),
        "recordings": _fingerprint(directory, recordings),
    }
    return Corpus("digits", TITLE, settings, plan, make_utterances, rate)


def _deal(names: Sequence[str]) -> dict[str, Sequence[str]]:
    if len(names) < len(SETS):
        raise CorpusError(
            f"recordings of {len(names)} speakers ({', '.join(names)}), but at least "
            f"{len(SETS)} are needed: one for each of {', '.join(SETS)}"
        )
    half = (len(names) - 2) // 2
    parts = (names[:half], names[half:-2], names[-2:-1], names[-1:])
    return dict(zip(SETS, parts, strict=True))


def _check_options(
    names: Sequence[str],
    speakers: Mapping[str, Sequence[str]],
    utterances: Mapping[str, int],
    sample_rate: int | None,
    female: Sequence[str],
) -> None:
    home: dict[str, str] = {}
    for set_name in SETS:
        if not speakers.get(set_name):
            raise ValueError(
                f"no speakers for {set_name}: name the speakers of all sets or of none"
            )
        if not 1 <= utterances[set_name] <= 10000:
            raise ValueError(
                f"utterances of each speaker of {set_name} must be 1 to 10000, "
                f"not {utterances[set_name]}"
            )
        for name in speakers[set_name]:
            if name in home:
                raise ValueError(f"speaker {name} is in {home[name]} and {set_name}")
            home[name] = set_name
    for name in [*home, *female]:
        if name not in names:
            raise ValueError(
                f"no recordings of speaker {name!r}; there are {', '.join(names)}"
            )
    if sample_rate is not None and not 4000 <= sample_rate <= 96000:
        raise ValueError(f"sample rate must be 4000 to 96000, not {sample_rate}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, soundfile.SoundFileError) as error:
        raise CorpusError(f"cannot read {path}: {error}") from error


def _fingerprint(directory: Path, recordings: Mapping[str, list[Recording]]) -> str:
    """Return a hash of the recordings' names and sizes."""
    digest = hashlib.sha256()
    for recording in (each for some in recordings.values() for each in some):
        name = recording.path.relative_to(directory).as_posix()
        with _reading(recording.path):
            size = recording.path.stat().st_size
        digest.update(f"{name} {recording.word} {size}\n".encode())
    return digest.hexdigest()[:16]


def make_utterances(speaker: DigitSpeaker) -> Iterator[Utterance]:
    """Join a speaker's recordings to utterances, using each about equally often.

    Raises:
        CorpusError: A recording cannot be read.
    """
    audio = [_read(each.path, speaker) for each in speaker.recordings]
    key = (speaker.seed, zlib.crc32(speaker.name.encode()))
    draw = np.random.default_rng(np.random.SeedSequence(key))
    order = _shuffled_forever(len(audio), draw)
    for _ in range(speaker.utterances):
        count = int(draw.integers(*_DIGITS_PER_UTTERANCE, endpoint=True))
        chosen = [next(order) for _ in range(count)]
        samples = _join([audio[each] for each in chosen], speaker.sample_rate, draw)
        words = " ".join(speaker.recordings[each].word for each in chosen)
        yield Utterance(words, to_int16(samples))


def _shuffled_forever(count: int, draw: np.random.Generator) -> Iterator[int]:
    while True:
        yield from draw.permutation(count).tolist()


def _join(
    pieces: Sequence[np.ndarray], sample_rate: int, draw: np.random.Generator
) -> np.ndarray:
    """Join digits with silences before, between and after, and faint noise."""
    silences = draw.uniform(*_SILENCE_SECONDS, size=len(pieces) + 1) * sample_rate
    gains = 10 ** (draw.uniform(*_GAIN_DB, size=len(pieces)) / 20)
    parts = [np.zeros(int(silences[0]))]
    for piece, gain, silence in zip(pieces, gains, silences[1:], strict=True):
        parts += [piece * gain, np.zeros(int(silence))]
    signal = np.concatenate(parts)
    level = np.sqrt(np.mean(signal**2)) * 10 ** (_NOISE_DB / 20)
    return signal + draw.standard_normal(len(signal)) * level


def _read(path: Path, speaker: DigitSpeaker) -> np.ndarray:
    with _reading(path):
        audio, rate = soundfile.read(path)
    if audio.ndim != 1 or not audio.any():
        raise CorpusError(f"{path} is silent or not mono")
    if rate == speaker.sample_rate:
        return audio
    if not speaker.resample:
        raise CorpusError(
            f"{path} has a sampling rate of {rate}, others of {speaker.sample_rate}: "
            "choose one with --rate"
        )
    # Imported here: it takes a second and is needed for another rate only.
    from scipy.signal import resample_poly

    ratio = Fraction(speaker.sample_rate, rate)
    return resample_poly(audio, ratio.numerator, ratio.denominator)
