"""Connected digits: utterances joined from recordings of single spoken digits."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
import soundfile

from espnet_softpl.commands.corpus.build import Corpus
from espnet_softpl.commands.corpus.librispeech import (
    CorpusError,
    Speaker,
    Utterance,
    to_int16,
)

FORMAT = 1


"""Raised by every change that alters the audio or the text."""


TITLE = "digits: connected digits, joined from recordings of single ones"


"""First line of SPEAKERS.TXT."""


DIGITS = tuple("ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split())


"""The words of the transcripts, in order of value."""


SETS = ("train-labeled", "train-unlabeled", "dev", "test")


"""The sets, none of which shares a speaker with another."""


DEFAULT_UTTERANCES = {
    "train-labeled": 40,
    "train-unlabeled": 200,
    "dev": 100,
    "test": 100,
}


"""Utterances of each speaker."""


# Ranges (low, high), drawn from evenly.
_DIGITS_PER_UTTERANCE = (3, 7)


_SILENCE_SECONDS = (0.05, 0.3)


_GAIN_DB = (-3.0, 3.0)


# Faint noise, this far below the speech: digital silence is not found in recordings.
_NOISE_DB = -50.0


@dataclass(frozen=True)
class Recording:
    """One spoken digit.

    Attributes:
        word: One of DIGITS.
        path: The audio file.
    """

    word: str
    path: Path


@dataclass(frozen=True)
class DigitSpeaker(Speaker):
    """A speaker with recordings.

    Attributes:
        seed: Seed of the corpus.
        recordings: What the utterances are joined from.
        sample_rate: Samples per second of the utterances.
        resample: Whether recordings may have another sampling rate.
    """

    seed: int
    recordings: tuple[Recording, ...]
    sample_rate: int
    resample: bool


def find_recordings(directory: Path) -> dict[str, list[Recording]]:
    """Finds recordings of single digits.

    Args:
        directory: Either in LibriSpeech's layout, with transcripts of one digit word
            each, or with files ``{digit}_{speaker}_{index}.wav``, in itself or in
            ``recordings``, as Jakobovski/free-spoken-digit-dataset has them.

    Returns:
        The recordings of each speaker, both sorted.

    Raises:
        CorpusError: If there are none, or a transcript is not a digit.
    """
    if not directory.is_dir():
        raise CorpusError(f"{directory} is not a directory")
    found: dict[str, list[Recording]] = {}
    for transcript in sorted(directory.rglob("*.trans.txt")):
        for speaker, recording in _from_transcript(transcript):
            found.setdefault(speaker, []).append(recording)
    for folder in (directory, directory / "recordings"):
        for path in sorted(folder.glob("[0-9]_*_*.wav")):
            digit, speaker = path.stem.rsplit("_", 1)[0].split("_", 1)
            found.setdefault(speaker, []).append(Recording(DIGITS[int(digit)], path))
    if not found:
        raise CorpusError(
            f"no recordings of digits in {directory}: neither *.trans.txt with audio "
            "beside it, nor files named {digit}_{speaker}_{index}.wav"
        )
    return dict(sorted(found.items()))


def _from_transcript(transcript: Path) -> Iterator[tuple[str, Recording]]:
    lines = transcript.read_text("utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        name, _, word = line.partition(" ")
        if word not in DIGITS:
            raise CorpusError(
                f"{transcript}, line {number}: {word!r} is not one of "
                f"{' '.join(DIGITS)}"
            )
        yield name.split("-")[0], Recording(word, transcript.parent / f"{name}.flac")


def digits_corpus(
    directory: Path,
    seed: int,
    speakers: Mapping[str, Sequence[str]],
    utterances: Mapping[str, int],
    sample_rate: int | None = None,
    female: Sequence[str] = (),
) -> Corpus:
    """Plans the corpus.

    Args:
        directory: Where the recordings are, see ``find_recordings``.
        seed: Seed of everything random, >= 0.
        speakers: Names of the speakers of each set. If empty, the last speaker is
            for test, the last but one for dev, and the others are halved.
        utterances: Utterances of each speaker, for every set, 1 to 10000.
        sample_rate: Samples per second, by default the recordings' own.
        female: Speakers that SPEAKERS.TXT has as women, the others being men.

    Returns:
        What to build.

    Raises:
        ValueError: If an option is illegal: a speaker without recordings or in two
            sets, a set without speakers, a number out of range.
        CorpusError: If the recordings cannot be used.
    """
    found = find_recordings(directory)
    dealt = dict(speakers) or _deal(list(found))
    _check_options(found, dealt, utterances, sample_rate, female)
    rate = sample_rate or _sample_rate(next(iter(found.values()))[0].path)
    numbers = {name: number for number, name in enumerate(found, start=1)}
    plan = [
        DigitSpeaker(
            set_name=set_name,
            speaker=numbers[name],
            sex="F" if name in female else "M",
            name=name,
            utterances=utterances[set_name],
            seed=seed,
            recordings=tuple(found[name]),
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
        "recordings": _fingerprint(directory, found),
    }
    return Corpus("digits", TITLE, settings, plan, make_utterances, rate)


def _deal(names: Sequence[str]) -> dict[str, Sequence[str]]:
    if len(names) < len(SETS):
        raise CorpusError(
            f"recordings of {len(names)} speakers ({', '.join(names)}), but at least "
            f"{len(SETS)} are needed: one for each of {', '.join(SETS)}"
        )
    half = (len(names) - 2) // 2
    return {
        "train-labeled": names[:half],
        "train-unlabeled": names[half:-2],
        "dev": names[-2:-1],
        "test": names[-1:],
    }


def _check_options(
    found: Mapping[str, object],
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
        if name not in found:
            raise ValueError(
                f"no recordings of speaker {name!r}; there are {', '.join(found)}"
            )
    if sample_rate is not None and not 4000 <= sample_rate <= 96000:
        raise ValueError(f"sample rate must be 4000 to 96000, not {sample_rate}")


def _sample_rate(path: Path) -> int:
    try:
        return soundfile.info(path).samplerate
    except (OSError, soundfile.SoundFileError) as error:
        raise CorpusError(f"cannot read {path}: {error}") from error


def _fingerprint(directory: Path, found: Mapping[str, Sequence[Recording]]) -> str:
    """Returns a hash of the recordings' names and sizes."""
    digest = hashlib.sha256()
    for recordings in found.values():
        for recording in recordings:
            name = recording.path.relative_to(directory).as_posix()
            try:
                size = recording.path.stat().st_size
            except OSError as error:
                raise CorpusError(f"cannot read {recording.path}: {error}") from error
            digest.update(f"{name} {recording.word} {size}\n".encode())
    return digest.hexdigest()[:16]


def make_utterances(speaker: DigitSpeaker) -> Iterator[Utterance]:
    """Joins a speaker's recordings to utterances, using each about equally often.

    Args:
        speaker: Who speaks.

    Yields:
        The utterances in order.

    Raises:
        CorpusError: If a recording cannot be read.
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
    """Joins digits with silences before, between and after, and faint noise."""
    silences = draw.uniform(*_SILENCE_SECONDS, size=len(pieces) + 1) * sample_rate
    gains = 10 ** (draw.uniform(*_GAIN_DB, size=len(pieces)) / 20)
    parts = [np.zeros(int(silences[0]))]
    for piece, gain, silence in zip(pieces, gains, silences[1:], strict=True):
        parts += [piece * gain, np.zeros(int(silence))]
    signal = np.concatenate(parts)
    level = np.sqrt(np.mean(signal**2)) * 10 ** (_NOISE_DB / 20)
    return signal + draw.standard_normal(len(signal)) * level


def _read(path: Path, speaker: DigitSpeaker) -> np.ndarray:
    try:
        audio, rate = soundfile.read(path)
    except (OSError, soundfile.SoundFileError) as error:
        raise CorpusError(f"cannot read {path}: {error}") from error
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
