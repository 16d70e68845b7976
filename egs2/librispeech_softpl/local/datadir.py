"""Kaldi-style data directories: reading, checking and writing them.

A data directory holds one line per utterance in each of its files, sorted by
utterance: ``wav.scp`` (audio path), ``utt2spk`` (speaker), ``utt2set`` (the set that
the utterance came from), ``text`` (transcript), ``text.oracle`` (transcript of
unlabeled audio, kept for measuring only) and ``utt2num_samples``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TextIO

FILES = {
    "wav": "wav.scp",
    "speaker": "utt2spk",
    "set_name": "utt2set",
    "text": "text",
    "oracle": "text.oracle",
    "samples": "utt2num_samples",
}


class RecipeError(Exception):
    """A mistake in the data or the options; its message is for the user."""


def run_main(main: Callable[[], None]) -> None:
    """Run a command and turn a RecipeError into one line and exit status 1.

    Args:
        main: The command; it takes no arguments.
    """
    try:
        main()
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def examples(names: Iterable[str], count: int = 3) -> str:
    """Return the first names as text, with the number of the others.

    Args:
        names: Any strings; they are sorted.
        count: How many to name, at least 1.
    """
    ordered = sorted(names)
    more = f" and {len(ordered) - count} more" if len(ordered) > count else ""
    return ", ".join(ordered[:count]) + more


@contextmanager
def atomic_write(path: str | Path) -> Iterator[TextIO]:
    """Open a text file that appears under its name only when complete.

    Args:
        path: File to write; missing parent directories are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            yield stream
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_table(path: str | Path) -> dict[str, str]:
    """Read a file of ``utterance value`` lines.

    Args:
        path: A Kaldi-style table; a line may have an empty value.

    Returns:
        Values by utterance, in the order of the file. Runs of white space inside a
        value become one space.

    Raises:
        RecipeError: The file is missing, is not UTF-8, has an empty line or names an
            utterance twice.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"{path} does not exist")
    table: dict[str, str] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not UTF-8 text ({error})") from error
    if lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        utterance, *words = line.split() or [""]
        if not utterance:
            raise RecipeError(f"{path}:{number}: the line is empty")
        if utterance in table:
            raise RecipeError(f"{path}:{number}: {utterance} occurs twice")
        table[utterance] = " ".join(words)
    return table


def write_table(path: str | Path, table: dict[str, str]) -> None:
    """Write ``utterance value`` lines sorted by utterance, as one atomic step.

    Args:
        path: File to write.
        table: Values by utterance.
    """
    with atomic_write(path) as stream:
        for utterance in sorted(table):
            stream.write(f"{utterance} {table[utterance]}".rstrip() + "\n")


@dataclass
class DataDir:
    """The tables of one data directory; an absent file is an empty table.

    Attributes:
        wav: Audio path by utterance.
        speaker: Speaker by utterance.
        set_name: Set that an utterance came from, such as ``test-clean``.
        text: Transcript by utterance; empty for unlabeled data.
        oracle: Transcript of unlabeled audio, for measuring only.
        samples: Number of audio samples by utterance, as text.
    """

    wav: dict[str, str] = field(default_factory=dict)
    speaker: dict[str, str] = field(default_factory=dict)
    set_name: dict[str, str] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)
    oracle: dict[str, str] = field(default_factory=dict)
    samples: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.wav)

    @classmethod
    def load(cls, directory: str | Path) -> DataDir:
        """Read a data directory.

        Args:
            directory: It must hold ``wav.scp``; the other files are optional.

        Raises:
            RecipeError: ``wav.scp`` is missing or a file is malformed.
        """
        directory = Path(directory)
        tables = {"wav": read_table(directory / FILES["wav"])}
        for name, file in FILES.items():
            if name != "wav" and (directory / file).exists():
                tables[name] = read_table(directory / file)
        return cls(**tables)

    def save(self, directory: str | Path) -> None:
        """Write the tables, ``spk2utt`` included, and remove files of empty ones.

        Args:
            directory: Made where it does not exist.
        """
        directory = Path(directory)
        for name, file in FILES.items():
            table = getattr(self, name)
            if table:
                write_table(directory / file, table)
            else:
                (directory / file).unlink(missing_ok=True)
        by_speaker: dict[str, list[str]] = {}
        for utterance in sorted(self.speaker):
            by_speaker.setdefault(self.speaker[utterance], []).append(utterance)
        spk2utt = {name: " ".join(utts) for name, utts in by_speaker.items()}
        write_table(directory / "spk2utt", spk2utt)

    def subset(self, keep: Iterable[str]) -> DataDir:
        """Return a copy with only the given utterances.

        Args:
            keep: Utterances; those that are not in the directory are ignored.
        """
        keep = set(keep)
        return DataDir(
            **{
                part.name: {
                    utterance: value
                    for utterance, value in getattr(self, part.name).items()
                    if utterance in keep
                }
                for part in fields(self)
            }
        )

    def merge(self, other: DataDir) -> None:
        """Add the utterances of another directory.

        Args:
            other: Its utterances must not be in this one.

        Raises:
            RecipeError: An utterance is in both.
        """
        both = self.wav.keys() & other.wav.keys()
        if both:
            raise RecipeError(
                f"utterance {examples(both)} occurs in more than one of the sets "
                "that are joined; give each set utterance names of its own"
            )
        for part in fields(self):
            getattr(self, part.name).update(getattr(other, part.name))
