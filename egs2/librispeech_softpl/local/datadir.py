"""Kaldi-style data directories: reading, checking and writing them.

A data directory holds one line per utterance in each of its files, sorted by
utterance: ``wav.scp`` (audio path), ``utt2spk`` (speaker), ``utt2set`` (the set that
the utterance came from), ``text`` (transcript), ``text.oracle`` (transcript of
unlabeled audio, kept for measuring only) and ``utt2num_samples``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

# Recipe and package have one error for users' mistakes, and one reader of tables.
from espnet_softpl.core.errors import UserError as RecipeError
from espnet_softpl.core.errors import name_some as examples
from espnet_softpl.core.files import atomic_write
from espnet_softpl.data.tables import read_scp, write_table

__all__ = ["DataDir", "RecipeError", "atomic_write", "examples", "read_table"]
__all__ += ["run_main", "write_table"]

FILES = {
    "wav": "wav.scp",
    "speaker": "utt2spk",
    "set_name": "utt2set",
    "text": "text",
    "oracle": "text.oracle",
    "samples": "utt2num_samples",
}


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


def read_table(path: str | Path) -> dict[str, str]:
    """Read a file of ``utterance value`` lines; a line may have an empty value.

    Args:
        path: A Kaldi-style table.

    Raises:
        RecipeError: See ``espnet_softpl.checks.read_scp``.
    """
    return read_scp(path, empty=True)


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

        Runs of white space inside a transcript become one space.

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
        for name in ("text", "oracle"):
            words = tables.get(name, {}).items()
            tables[name] = {utt: " ".join(text.split()) for utt, text in words}
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
