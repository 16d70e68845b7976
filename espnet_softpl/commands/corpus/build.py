"""Builds a corpus speaker by speaker: in parallel, restartable, never half done.

While a build runs, ``.partial`` under its root holds the settings and the unfinished
speakers; a finished corpus has a marker file ``.<name>_corpus.json`` instead.
"""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import soundfile

from espnet_softpl.commands.corpus.librispeech import (
    CorpusError,
    Speaker,
    Utterance,
    speaker_seconds,
    write_speaker,
    write_speakers_txt,
    write_text,
)
from espnet_softpl.commands.corpus.progress import Progress

PARTIAL = ".partial"


"""Name of the directory for unfinished work."""


@dataclass(frozen=True)
class Corpus:
    """What to build.

    Attributes:
        name: Short name, part of the marker's name.
        title: One line that says what the corpus is.
        settings: What the audio depends on; compared when a build is resumed.
        speakers: Every speaker, in the order of SPEAKERS.TXT.
        make: Makes one speaker's utterances. Called in a process of its own, which
            imports it by name, so a function at the top level of a module.
        sample_rate: Samples per second of the audio that ``make`` returns.
        preload: Modules that ``make`` imports, loaded once for all processes.
    """

    name: str
    title: str
    settings: Mapping[str, object]
    speakers: Sequence[Speaker]
    make: Callable[..., Iterable[Utterance]]
    sample_rate: int
    preload: tuple[str, ...] = ()

    @property
    def marker(self) -> str:
        """Name of the file that marks a finished corpus."""
        return f".{self.name}_corpus.json"


def build(corpus: Corpus, root: Path, jobs: int, quiet: bool = False) -> dict:
    """Builds what is missing of a corpus.

    Args:
        corpus: What to build.
        root: Directory to build it in; made if missing.
        jobs: How many speakers to make at once, >= 1.
        quiet: Whether to report no progress.

    Returns:
        The marker's contents: settings, and per set the number of speakers, of
        utterances and of minutes.

    Raises:
        CorpusError: If the directory holds something else, or a speaker fails.
    """
    marker = root / corpus.marker
    _refuse_other_contents(corpus, root)
    missing = [each for each in corpus.speakers if not each.directory(root).is_dir()]
    if marker.is_file() and (root / "SPEAKERS.TXT").is_file() and not missing:
        return _read_json(marker)
    partial = root / PARTIAL
    partial.mkdir(parents=True, exist_ok=True)
    with _lock(partial / "lock"):
        write_text(partial / "settings.json", _to_json(corpus.settings))
        _build_speakers(corpus, root, missing, jobs, quiet)
        seconds = [speaker_seconds(root, each) for each in corpus.speakers]
        write_speakers_txt(root, corpus.title, corpus.speakers, seconds)
        summary = _summary(corpus, seconds)
        write_text(marker, _to_json(summary))
        # A process that outlived a killed build may still be writing there.
        shutil.rmtree(partial, ignore_errors=True)
    return summary


def _refuse_other_contents(corpus: Corpus, root: Path) -> None:
    if root.exists() and not root.is_dir():
        raise CorpusError(f"{root} is not a directory")
    marker, partial = root / corpus.marker, root / PARTIAL / "settings.json"
    if marker.is_file():
        found = _read_json(marker)["settings"]
    elif partial.is_file():
        found = _read_json(partial)
    elif root.is_dir() and any(each.name != PARTIAL for each in root.iterdir()):
        raise CorpusError(
            f"{root} is not empty and holds no {corpus.name} corpus: "
            "choose another directory"
        )
    else:
        return
    # Through JSON, which turns tuples into lists.
    wanted = json.loads(_to_json(corpus.settings))
    different = [
        f"{key} {found.get(key)!r} instead of {wanted.get(key)!r}"
        for key in sorted(found.keys() | wanted.keys())
        if found.get(key) != wanted.get(key)
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


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            message = f"another process is building a corpus in {path.parent.parent}"
            raise CorpusError(message) from error
        yield


def _build_speakers(
    corpus: Corpus, root: Path, speakers: Sequence[Speaker], jobs: int, quiet: bool
) -> None:
    """Builds every speaker in a process of its own, ``jobs`` at a time."""
    # Children of the fork server start fast and have never called a synthesizer,
    # so what they make does not depend on which speakers were made before.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([corpus.make.__module__, *corpus.preload])
    progress = Progress(f"{corpus.name} corpus", len(speakers), "speakers", quiet)
    pool = ThreadPoolExecutor(jobs)
    try:
        tasks = [pool.submit(_run, context, corpus, root, each) for each in speakers]
        for task in as_completed(tasks):
            task.result()
            progress.advance()
    finally:
        pool.shutdown(cancel_futures=True)


def _run(
    context: multiprocessing.context.ForkServerContext,
    corpus: Corpus,
    root: Path,
    speaker: Speaker,
) -> None:
    """Builds one speaker in a new process and passes its error on."""
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_child, args=(sender, corpus.make, corpus.sample_rate, root, speaker)
    )
    process.start()
    sender.close()
    try:
        error = receiver.recv()
    except EOFError:
        process.join()
        error = f"its process died with exit code {process.exitcode}"
    process.join()
    if error is not None:
        who = f"speaker {speaker.speaker} of {speaker.set_name}"
        raise CorpusError(f"cannot make {who}: {error}")


def _child(
    sender: Connection,
    make: Callable[..., Iterable[Utterance]],
    sample_rate: int,
    root: Path,
    speaker: Speaker,
) -> None:
    # Ctrl-C is the parent's to handle: it lets running speakers finish.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    error = None
    try:
        write_speaker(root, root / PARTIAL, speaker, make(speaker), sample_rate)
    except (CorpusError, OSError, ValueError, soundfile.SoundFileError) as caught:
        error = str(caught)
    # The parent may have been killed meanwhile.
    with suppress(BrokenPipeError):
        sender.send(error)


def _summary(corpus: Corpus, seconds: Sequence[float]) -> dict:
    sets: dict[str, dict[str, float]] = {}
    for speaker, duration in zip(corpus.speakers, seconds, strict=True):
        entry = sets.setdefault(
            speaker.set_name, {"speakers": 0, "utterances": 0, "minutes": 0.0}
        )
        entry["speakers"] += 1
        entry["utterances"] += speaker.utterances
        entry["minutes"] = round(entry["minutes"] + duration / 60, 3)
    return {"settings": dict(corpus.settings), "sets": sets}
