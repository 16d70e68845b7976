"""Kaldi-style data directories: reading, checking and writing them.

A data directory holds one line per utterance in each of its files, sorted by
utterance: `wav.scp` (audio path), `utt2spk` (speaker), `utt2set` (the set that
the utterance came from), `text` (transcript), `text.oracle` (transcript of
unlabeled audio, kept for measuring only) and `utt2num_samples`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
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
    """Run a command and turn a RecipeError into one line and exit status 1."""
    try:
        main()
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def read_table(path: str | Path) -> dict[str, str]:
    """Read a file of `utterance value` lines; a line may have an empty value."""
    return read_scp(path, empty=True)


@dataclass
class DataDir:
    """The tables of one data directory; an absent file is an empty table."""

    wav: dict[str, str] = field(default_factory=dict)
    speaker: dict[str, str] = field(default_factory=dict)
    set_name: dict[str, str] = field(default_factory=dict)  # Such as test-clean.
    text: dict[str, str] = field(default_factory=dict)  # Empty for unlabeled data.
    oracle: dict[str, str] = field(default_factory=dict)
    samples: dict[str, str] = field(default_factory=dict)  # Numbers as text.

    def __len__(self) -> int:
        return len(self.wav)

    @classmethod
    def load(cls, directory: str | Path) -> DataDir:
        """Read a data directory.

        Runs of white space inside a transcript become one space.

        Args:
            directory: It must hold `wav.scp`; the other files are optional.

        Raises:
            RecipeError: `wav.scp` is missing or a file is malformed.
        """
        paths = {name: Path(directory, file) for name, file in FILES.items()}
        tables = {
            name: read_table(path)
            for name, path in paths.items()
            if name == "wav" or path.exists()
        }
        for name in {"text", "oracle"} & {*tables}:
            words = tables[name].items()
            tables[name] = {utt: " ".join(text.split()) for utt, text in words}
        return cls(**tables)

    def save(self, directory: str | Path) -> None:
        """Write the tables, `spk2utt` included, and remove files of empty ones."""
        for name, file in FILES.items():
            if table := getattr(self, name):
                write_table(Path(directory, file), table)
            else:
                Path(directory, file).unlink(missing_ok=True)
        by_speaker: dict[str, list[str]] = {}
        for utterance, speaker in sorted(self.speaker.items()):
            by_speaker.setdefault(speaker, []).append(utterance)
        spk2utt = {name: " ".join(utts) for name, utts in by_speaker.items()}
        write_table(Path(directory, "spk2utt"), spk2utt)

    def subset(self, keep: Iterable[str]) -> DataDir:
        """Return a copy with only the given utterances, those of them that are here."""
        keep = set(keep)
        tables = {
            name: {utt: value for utt, value in table.items() if utt in keep}
            for name, table in vars(self).items()
        }
        return DataDir(**tables)

    def merge(self, other: DataDir) -> None:
        """Add the utterances of another directory.

        Raises:
            RecipeError: An utterance is in both.
        """
        if both := self.wav.keys() & other.wav.keys():
            raise RecipeError(
                f"utterance {examples(both)} occurs in more than one of the sets "
                "that are joined; give each set utterance names of its own"
            )
        for name, table in vars(self).items():
            table.update(getattr(other, name))
