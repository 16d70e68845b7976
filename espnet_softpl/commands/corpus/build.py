"""Write a corpus in LibriSpeech's layout: in parallel, restartable, never half done.

    SPEAKERS.TXT
    <set>/<speaker>/<chapter>/<speaker>-<chapter>-<utterance, 4 digits>.flac
    <set>/<speaker>/<chapter>/<speaker>-<chapter>.trans.txt

While a build runs, `.partial` under the root holds the settings and the unfinished
speakers; a finished corpus has a marker file `.<name>_corpus.json` instead.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import re
import reprlib
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

from espnet_softpl.core.files import atomic_file

PARTIAL = ".partial"
CHAPTER = "1"  # The one chapter of every speaker.
PATIENCE_SECONDS = 900.0  # A killed worker sends nothing: do not wait for ever.
TRANSCRIPT = re.compile(r"[A-Z']+( [A-Z']+)*")


class CorpusError(Exception):
    """A corpus cannot be built; the message is meant for the user."""


class Utterance(NamedTuple):
    """One utterance."""

    text: str  # Words of A-Z and apostrophe, separated by single spaces.
    samples: np.ndarray  # Mono audio, int16, shape (num_samples,), not silent.


@dataclass(frozen=True)
class Speaker:
    """One speaker to build."""

    set_name: str  # The first directory level.
    speaker: int  # Unique in the corpus.
    sex: str  # M, F or U (unknown).
    name: str  # Free text for the last column of SPEAKERS.TXT, without `|`.
    utterances: int  # How many to make at most, 1 to 10000.

    def directory(self, root: Path) -> Path:
        """Return the directory of this speaker under a corpus root."""
        return root / self.set_name / str(self.speaker)


class Corpus(NamedTuple):
    """What to build."""

    name: str  # Short, part of the marker's name.
    title: str  # One line that says what the corpus is.
    settings: Mapping[str, object]  # What the audio depends on.
    speakers: Sequence[Speaker]  # In the order of SPEAKERS.TXT.
    # Makes one speaker's utterances, in a process that has made nothing else; a
    # function at the top level of a module.
    make: Callable[[Speaker], Iterable[Utterance]]
    sample_rate: int  # Of the audio that `make` returns.


def build(corpus: Corpus, root: Path, jobs: int, quiet: bool = False) -> dict:
    """Build what is missing of a corpus in `root`, `jobs` speakers at once.

    Returns the marker's contents: settings, and per set the number of speakers, of
    utterances and of minutes.
    """
    marker, unfinished = root / f".{corpus.name}_corpus.json", root / PARTIAL
    _refuse_other_contents(corpus, root, marker)
    missing = [each for each in corpus.speakers if not each.directory(root).is_dir()]
    if marker.is_file() and (root / "SPEAKERS.TXT").is_file() and not missing:
        return _read_json(marker)
    unfinished.mkdir(parents=True, exist_ok=True)
    with (unfinished / "lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = f"another process is building a corpus in {root}"
            raise CorpusError(message) from error
        _write(unfinished / "settings.json", _to_json(corpus.settings))
        _build_speakers(corpus, root, missing, jobs, quiet)
        speakers_txt, summary = _describe(corpus, root)
        _write(root / "SPEAKERS.TXT", speakers_txt)
        _write(marker, _to_json(summary))
        # A process that outlived a killed build may still be writing there.
        shutil.rmtree(unfinished, ignore_errors=True)
    return summary


def _refuse_other_contents(corpus: Corpus, root: Path, marker: Path) -> None:
    wanted = json.loads(_to_json(corpus.settings))  # JSON turns tuples into lists.
    there, begun = wanted, root / PARTIAL / "settings.json"
    if root.exists() and not root.is_dir():
        raise CorpusError(f"{root} is not a directory")
    if marker.is_file():
        there = _read_json(marker)["settings"]
    elif begun.is_file():
        there = _read_json(begun)
    elif root.is_dir() and any(each.name != PARTIAL for each in root.iterdir()):
        raise CorpusError(
            f"{root} is not empty and holds no {corpus.name} corpus: "
            "choose another directory"
        )
    short = reprlib.repr  # A list of speakers may have hundreds.
    pairs = {k: (there.get(k), wanted.get(k)) for k in sorted({**there, **wanted})}
    different = [
        f"{key} {short(old)} instead of {short(new)}"
        for key, (old, new) in pairs.items()
        if old != new
    ]
    if different:
        raise CorpusError(
            f"{root} was built with other settings ({', '.join(different)}): "
            "choose another directory or delete this one"
        )


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorpusError(f"{path} is damaged ({error}): delete it") from error


def _to_json(value: object) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def _write(path: Path, text: str) -> None:
    # No wait for the disk: what a power cut loses is built again.
    with atomic_file(path, durable=False) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _build_speakers(
    corpus: Corpus, root: Path, speakers: Sequence[Speaker], jobs: int, quiet: bool
) -> None:
    # Children of the fork server start fast and have never called a synthesizer; each
    # makes one speaker, so what it makes does not depend on the speakers before.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([corpus.make.__module__, "scipy.signal"])
    make = partial(_make_speaker, root, corpus._replace(speakers=()))
    ignore_ctrl_c = (signal.signal, (signal.SIGINT, signal.SIG_IGN))
    # None: shown on a terminal only.
    shown = {"unit": " speakers", "disable": True if quiet else None}
    progress = tqdm(speakers, f"{corpus.name} corpus", **shown)
    with context.Pool(jobs, *ignore_ctrl_c, maxtasksperchild=1) as pool:
        finished = pool.imap_unordered(make, speakers)
        for _ in progress:
            try:
                finished.next(PATIENCE_SECONDS)
            except multiprocessing.TimeoutError as error:
                message = f"no speaker was finished within {PATIENCE_SECONDS:.0f} s"
                raise CorpusError(message) from error


def _make_speaker(root: Path, corpus: Corpus, speaker: Speaker) -> None:
    try:
        write_speaker(root, speaker, corpus.make(speaker), corpus.sample_rate)
    except (CorpusError, OSError, ValueError, soundfile.SoundFileError) as error:
        who = f"speaker {speaker.speaker} of {speaker.set_name}"
        raise CorpusError(f"cannot make {who}: {error}") from error


def write_speaker(
    root: Path, speaker: Speaker, utterances: Iterable[Utterance], sample_rate: int
) -> None:
    """Write a speaker below `.partial` and rename it into place."""
    stem, final = f"{speaker.speaker}-{CHAPTER}", speaker.directory(root)
    with tempfile.TemporaryDirectory(dir=root / PARTIAL) as folder:
        chapter = Path(folder) / "speaker" / CHAPTER
        chapter.mkdir(parents=True)
        lines = []
        for index, utterance in enumerate(utterances):
            name, samples = f"{stem}-{index:04d}", utterance.samples
            if not TRANSCRIPT.fullmatch(utterance.text):
                raise ValueError(f"{name}: text {utterance.text!r} is not A-Z words")
            if samples.dtype != np.int16 or samples.ndim != 1 or not samples.any():
                raise ValueError(f"{name}: audio is silent or not 16 bit mono")
            path = chapter / f"{name}.flac"
            soundfile.write(path, samples, sample_rate, subtype="PCM_16")
            lines.append(f"{name} {utterance.text}\n")
        transcript = chapter / f"{stem}.trans.txt"
        transcript.write_text("".join(lines), encoding="utf-8")
        final.parent.mkdir(parents=True, exist_ok=True)
        try:
            chapter.parent.rename(final)
        except OSError:
            # A process that outlived a killed build may have made the same speaker.
            if not final.is_dir():
                raise


def _describe(corpus: Corpus, root: Path) -> tuple[str, dict]:
    """Return the contents of SPEAKERS.TXT and of the marker."""
    width = max(len(each.set_name) for each in corpus.speakers)
    lines = [
        f"; {corpus.title}",
        "; Format: ID | SEX | SUBSET | MINUTES | NAME",
        f";{'ID':<5}| SEX | {'SUBSET':<{width}} | MINUTES | NAME",
    ]
    sets: dict[str, dict[str, float]] = {}
    for each in corpus.speakers:
        files = sorted(each.directory(root).glob("*/*.flac"))
        minutes = sum(soundfile.info(path).duration for path in files) / 60
        lines.append(
            f"{each.speaker:<6}| {each.sex:<3} | {each.set_name:<{width}} "
            f"| {minutes:<7.2f} | {each.name}"
        )
        empty = {"speakers": 0, "utterances": 0, "minutes": 0.0}
        entry = sets.setdefault(each.set_name, empty)
        entry["speakers"] += 1
        entry["utterances"] += len(files)
        entry["minutes"] = round(entry["minutes"] + minutes, 3)
    summary = {"settings": dict(corpus.settings), "sets": sets}
    return "\n".join(lines) + "\n", summary
