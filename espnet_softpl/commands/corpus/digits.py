"""Connected digits: utterances joined from recordings of single spoken digits."""

from __future__ import annotations

import collections
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile

from espnet_softpl.commands.corpus import SETS
from espnet_softpl.commands.corpus.acoustics import to_int16
from espnet_softpl.commands.corpus.build import Corpus, CorpusError, Utterance
from espnet_softpl.commands.corpus.joining import (
    RecordedSpeaker,
    Recording,
    check_rate,
    fingerprint,
    reading,
)

FORMAT = 1  # Raised by every change that alters the audio or the text.
DIGITS = tuple("ZERO ONE TWO THREE FOUR FIVE SIX SEVEN EIGHT NINE".split())


def find_recordings(directory: Path) -> dict[str, list[Recording]]:
    """Find the recordings of single digits of each speaker, both sorted.

    They are in LibriSpeech's layout, with transcripts of one digit word each, or files
    `{digit}_{speaker}_{index}.wav`, in the directory itself or in `recordings`, as
    Jakobovski/free-spoken-digit-dataset has them.

    Raises:
        CorpusError: There are none, or a transcript is not a digit.
    """
    if not directory.is_dir():
        raise CorpusError(f"{directory} is not a directory")
    by_speaker: dict[str, list[Recording]] = collections.defaultdict(list)
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
            by_speaker[name.split("-")[0]].append(recording)
    for folder in (directory, directory / "recordings"):
        for path in sorted(folder.glob("[0-9]_*_*.wav")):
            digit, speaker = path.stem.rsplit("_", 1)[0].split("_", 1)
            by_speaker[speaker].append(Recording(DIGITS[int(digit)], path))
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
        seed: Of everything random, >= 0.
        speakers: Names of the speakers of each set, or parts of their recordings, as
            `some_of` has them. If empty, the last speaker is for test, the last but
            one for dev, and the others are halved.
        utterances: Utterances of each speaker, for every set, 1 to 10000.
        sample_rate: Samples per second, by default the recordings' own.
        female: Speakers that SPEAKERS.TXT has as women, the others being men.

    Raises:
        ValueError: A speaker without recordings, a speaker or a recording in two
            sets, a set without speakers, a number out of range.
        CorpusError: The recordings cannot be used.
    """
    recordings = find_recordings(directory)
    speakers = speakers or _deal(list(recordings))
    for name in itertools.chain(*speakers.values()):
        if ":" in name:
            recordings[name] = some_of(recordings, name)
    names = list(recordings)
    _check_sets(speakers, utterances, recordings, female)
    if sample_rate is not None:
        check_rate(sample_rate)
    first = recordings[names[0]][0].path
    with reading(first):
        rate = sample_rate or soundfile.info(first).samplerate
    plan = []
    for set_name, name in ((s, name) for s in SETS for name in speakers[s]):
        number = names.index(name) + 1
        sex = "F" if name.partition(":")[0] in female else "M"
        base = (set_name, number, sex, name, utterances[set_name])
        own = (seed, tuple(recordings[name]), rate, sample_rate is not None)
        plan.append(RecordedSpeaker(*base, *own))
    settings = {
        "format": FORMAT,
        "seed": seed,
        "speakers": {name: list(speakers[name]) for name in SETS},
        "utterances": {name: utterances[name] for name in SETS},
        "sample_rate": rate,
        "female": sorted(female),
        "recordings": fingerprint(directory, recordings),
    }
    title = "digits: connected digits, joined from recordings of single ones"
    return Corpus("digits", title, settings, plan, make_utterances, rate)


def _check_sets(
    speakers: Mapping[str, Sequence[str]],
    utterances: Mapping[str, int],
    recordings: Mapping[str, Sequence[Recording]],
    female: Sequence[str],
) -> None:
    """Refuse sets that cannot be made, or that have a speaker or a file in common."""
    home: dict[str, str] = {}
    used: dict[Path, str] = {}
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
            for path in (each.path for each in recordings.get(name, ())):
                if used.setdefault(path, name) != name:
                    raise ValueError(f"{path} is in {used[path]} and {name}")
    for name in [*home, *female]:
        if name not in recordings:
            raise ValueError(
                f"no recordings of speaker {name!r}; there are {', '.join(recordings)}"
            )


def some_of(
    recordings: Mapping[str, Sequence[Recording]], name: str
) -> list[Recording]:
    """Return a part of a speaker's recordings.

    Files end in the number of the recording: `3_theo_12.wav` and `theo-3-0012.flac` are
    number 12 of the digit 3.

    Args:
        recordings: Of each speaker.
        name: The speaker, and the first and the last number: `theo:0-14`.

    Raises:
        ValueError: The part is written in another way, or is empty.
    """
    match = re.fullmatch(r"(.+):(\d+)-(\d+)", name)
    if match is None:
        raise ValueError(f"{name!r} must be like NAME:0-14, numbers of recordings")
    speaker, first, last = match[1], int(match[2]), int(match[3])
    number = re.compile(r"\d+$")
    part = [
        each
        for each in recordings.get(speaker, ())
        if (end := number.search(each.path.stem)) and first <= int(end[0]) <= last
    ]
    if not part:
        raise ValueError(f"there are no recordings {first} to {last} of {speaker!r}")
    return part


def _deal(names: Sequence[str]) -> dict[str, Sequence[str]]:
    if len(names) < len(SETS):
        raise CorpusError(
            f"recordings of {len(names)} speakers ({', '.join(names)}), but at least "
            f"{len(SETS)} are needed: one for each of {', '.join(SETS)}"
        )
    half = (len(names) - 2) // 2
    parts = (names[:half], names[half:-2], names[-2:-1], names[-1:])
    return dict(zip(SETS, parts, strict=True))


def make_utterances(speaker: RecordedSpeaker) -> Iterator[Utterance]:
    """Join a speaker's recordings to utterances, using each about equally often."""
    audio = [speaker.read(each.path) for each in speaker.recordings]
    draw = speaker.draw()
    shuffles = (draw.permutation(len(audio)).tolist() for _ in itertools.count())
    order = itertools.chain.from_iterable(shuffles)
    for _ in range(speaker.utterances):
        count = int(draw.integers(3, 7, endpoint=True))
        chosen = list(itertools.islice(order, count))
        samples = _join([audio[each] for each in chosen], speaker.sample_rate, draw)
        words = " ".join(speaker.recordings[each].word for each in chosen)
        yield Utterance(words, to_int16(samples))


def _join(
    pieces: Sequence[np.ndarray], sample_rate: int, draw: np.random.Generator
) -> np.ndarray:
    """Join digits, each up to 3 dB louder or softer, with silences and faint noise."""
    silences = draw.uniform(0.05, 0.3, size=len(pieces) + 1) * sample_rate
    gains = 10 ** (draw.uniform(-3.0, 3.0, size=len(pieces)) / 20)
    parts = [np.zeros(int(silences[0]))]
    for piece, gain, silence in zip(pieces, gains, silences[1:], strict=True):
        parts += [piece * gain, np.zeros(int(silence))]
    signal = np.concatenate(parts)
    # Digital silence is not found in recordings: noise 50 dB below the speech.
    level = np.sqrt(np.mean(signal**2)) * 10 ** (-50.0 / 20)
    return signal + draw.standard_normal(len(signal)) * level
