"""Connected words: utterances joined from recordings of single spoken words."""

from __future__ import annotations

import collections
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from espnet_softpl.commands.corpus import SETS, joining
from espnet_softpl.commands.corpus.acoustics import to_int16
from espnet_softpl.commands.corpus.build import (
    TRANSCRIPT,
    Corpus,
    CorpusError,
    Utterance,
)
from espnet_softpl.commands.corpus.joining import Recording, Recordings

FORMAT = 1  # Raised by every change that alters the audio or the text.
TABLE = "words.tsv"  # Beside the recordings.
MIXED_FOLDER = "_unknown_"  # Several words, each named at the front of its files.
_SUFFIXES = {".wav", ".flac", ".ogg", ".opus"}
# 00000001_NO_01.wav is of speaker 01, backward_0c540988_nohash_2.wav of 0c540988.
_ARABIC = re.compile(r"[0-9]{6}(?P<speaker>[0-9]{2})_")
_GOOGLE = re.compile(r"((?P<word>[a-z]+)_)?(?P<speaker>[0-9a-f]{8})_nohash_[0-9]")
_EXPECTED = (
    "expected is a folder for each word, with files named like 00000001_NO_01.wav "
    "(Arabic Speech Commands) or 0c540988_nohash_2.wav (Google Speech Commands)"
)
_MARGIN_SECONDS = (0.05, 0.15)  # Background at each side of a word, if there is any.
_NAMED = 5  # Recordings that a message names, of those left out.


@dataclass(frozen=True)
class WordSpeaker(joining.RecordedSpeaker):
    """A speaker none of whose recordings is used twice."""

    words: int  # The most, <= the number of recordings.
    per_utterance: tuple[int, int]  # The fewest and the most words of an utterance.


def find_recordings(root: Path, table: Path | None = None) -> Recordings:
    """Find the recordings of each speaker, both sorted; see `words_corpus`.

    Folders that begin with an underscore, except `_unknown_`, are left out.
    """
    if not root.is_dir():
        raise CorpusError(f"{root} is not a directory")
    if table is None:
        beside = (root / TABLE, root.parent / TABLE)
        table = next((path for path in beside if path.is_file()), None)
    texts = None if table is None else read_table(table)
    by_speaker: dict[str, list[Recording]] = collections.defaultdict(list)
    for path in sorted(root.glob("*/*")):
        folder = path.parent.name
        if path.suffix.lower() not in _SUFFIXES:
            continue
        if folder.startswith("_") and folder != MIXED_FOLDER:
            continue
        google = _GOOGLE.match(path.name)  # First: a hash can be all digits.
        match = google or _ARABIC.match(path.name)
        word = google["word"] if google and folder == MIXED_FOLDER else folder
        if match is None or word in (None, MIXED_FOLDER):
            raise CorpusError(f"{path} is not named as it should be: {_EXPECTED}")
        if texts is None and not google:
            raise CorpusError(
                f"the folders of {root} do not tell the Arabic words: name a table "
                f"with --table, or have {TABLE} beside them"
            )
        text = word.upper() if texts is None else texts.get(word)
        if text is None:
            raise CorpusError(f"{table} has no line for {word!r}, the word of {path}")
        if not TRANSCRIPT.fullmatch(text):
            raise CorpusError(f"{path}: {text!r} is not a word of A-Z: use a table")
        by_speaker[match["speaker"]].append(Recording(text, path))
    if not by_speaker:
        raise CorpusError(f"no recordings of words in {root}: {_EXPECTED}")
    return dict(sorted(by_speaker.items()))


def read_table(path: Path) -> dict[str, str]:
    """Read lines of a folder's name (once), a tab, and the word of its recordings."""
    texts: dict[str, str] = {}
    with joining.reading(path):
        lines = path.read_text("utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        folder, _, text = line.partition("\t")
        if not folder or folder in texts or not TRANSCRIPT.fullmatch(text):
            raise CorpusError(
                f"{path}, line {number}: {line!r} is not a folder (once), a tab and a "
                "word of A-Z"
            )
        texts[folder] = text
    return texts


def words_corpus(
    directory: Path,
    seed: int,
    speakers: Mapping[str, int | None],
    words: Mapping[str, int | None],
    per_utterance: tuple[int, int] = (3, 6),
    min_recordings: int = 6,
    table: Path | None = None,
    sample_rate: int = 16000,
) -> Corpus:
    """Plan the corpus from the options of `bin.make_words_corpus`.

    By set, `speakers` of None means all others (in one set), `words` of None all of a
    speaker's. ValueError if a number is out of range, or more than there are;
    CorpusError if the recordings or the table cannot be used.
    """
    joining.check_rate(sample_rate)
    shortest, longest = per_utterance
    if not 1 <= shortest <= longest:
        raise ValueError(
            f"words of an utterance must be two numbers, the first from 1 to the "
            f"second, not {shortest} {longest}"
        )
    numbers = {f"words of a speaker of {name}": words[name] for name in SETS}
    numbers["the fewest recordings of a speaker"] = min_recordings
    for what, number in numbers.items():
        if number is not None and number < shortest:
            raise ValueError(
                f"{what} must be at least {shortest}, those of an utterance, not "
                f"{number}"
            )
    root = directory / "dataset" if (directory / "dataset").is_dir() else directory
    recordings = _without_duplicates(find_recordings(root, table))
    chosen = _deal(recordings, min_recordings, speakers, seed)
    plan = []
    for set_name, name in ((s, name) for s in SETS for name in chosen[s]):
        number = list(recordings).index(name) + 1
        base = (set_name, number, "U", name)
        available = len(recordings[name])
        most = min(words[set_name] or available, available)
        own = (most // shortest, seed, tuple(recordings[name]), sample_rate, True)
        plan.append(WordSpeaker(*base, *own, most, per_utterance))
    settings = {
        "format": FORMAT,
        "seed": seed,
        "speakers": chosen,
        "words": dict(words),
        "words_per_utterance": list(per_utterance),
        "sample_rate": sample_rate,
        "recordings": joining.fingerprint(root, recordings),
    }
    title = "words: connected words, joined from recordings of single ones"
    return Corpus("words", title, settings, plan, make_utterances, sample_rate)


def _without_duplicates(recordings: Recordings) -> Recordings:
    """Keep the first of files of the same bytes, by speaker and name."""
    first: dict[bytes, Path] = {}
    kept: dict[str, list[Recording]] = {name: [] for name in recordings}
    dropped = []
    for name, each in ((key, one) for key, own in recordings.items() for one in own):
        with joining.reading(each.path):
            content = hashlib.sha256(each.path.read_bytes()).digest()
        if content in first:
            dropped.append(f"{each.path} is the same as {first[content]}")
        else:
            first[content] = each.path
            kept[name].append(each)
    _tell("", dropped)
    return kept


def _tell(who: str, dropped: Sequence[str]) -> None:
    """Say what was left out; the first ones by name."""
    if dropped:
        more = "; and others" if len(dropped) > _NAMED else ""
        sys.stderr.write(
            f"{who}recordings left out ({len(dropped)}): "
            f"{'; '.join(dropped[:_NAMED])}{more}\n"
        )


def _deal(
    recordings: Recordings,
    min_recordings: int,
    numbers: Mapping[str, int | None],
    seed: int,
) -> dict[str, list[str]]:
    """Draw the speakers of each set, dev and test first: they stay the same."""
    names = [name for name, own in recordings.items() if len(own) >= min_recordings]
    order = np.random.default_rng(seed).permutation(len(names)).tolist()
    rest = [name for name in SETS if numbers[name] is None]
    wanted = sum(number or 0 for number in numbers.values())
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ValueError(f"speakers of {name} must be 1 or more, not {number}")
    if len(rest) > 1:
        raise ValueError(f"say how many speakers are for {rest[0]} or {rest[1]}")
    if wanted + len(rest) > len(names):
        raise ValueError(
            f"{wanted + len(rest)} speakers or more are asked for, but {len(names)} "
            f"have {min_recordings} recordings or more"
        )
    chosen = {}
    for name in sorted(SETS, key=lambda each: (each in rest, each.startswith("train"))):
        number = len(order) if name in rest else numbers[name]
        drawn, order = order[:number], order[number:]
        chosen[name] = sorted(names[each] for each in drawn)
    return chosen


def make_utterances(speaker: WordSpeaker) -> Iterator[Utterance]:
    """Join a speaker's recordings to utterances, using none twice.

    Recordings that hold no word are left out, and others take their place.
    """
    draw = speaker.draw()
    pieces: list[tuple[str, np.ndarray]] = []
    dropped = []
    for index in draw.permutation(len(speaker.recordings)).tolist():
        if len(pieces) == speaker.words:
            break
        word, path = speaker.recordings[index]
        try:
            samples = speaker.read(path)
            start, end = joining.find_word(samples, speaker.sample_rate)
        except CorpusError as error:
            dropped.append(str(error))
        except ValueError as error:
            dropped.append(f"{path} {error}")
        else:
            before, after = draw.uniform(*_MARGIN_SECONDS, size=2) * speaker.sample_rate
            start, end = max(start - int(before), 0), end + int(after)
            pieces.append((word, samples[start:end]))
    _tell(f"speaker {speaker.name}: ", dropped)
    sizes = joining.split(len(pieces), *speaker.per_utterance, draw)
    if not sizes:
        raise CorpusError(f"{speaker.name} has {len(pieces)} usable recordings")
    parts, rate = iter(pieces), speaker.sample_rate
    for size in sizes:
        words, audio = zip(*(next(parts) for _ in range(size)), strict=True)
        samples = np.concatenate([joining.faded(each, rate) for each in audio])
        yield Utterance(" ".join(words), to_int16(samples))
