"""Makes a corpus of connected words from recordings of single words by many speakers.

The recordings are laid out like the Arabic Speech Commands or Google's Speech Commands:
a folder for each word, WAV, FLAC, Ogg Vorbis or Ogg Opus. Silences are trimmed, and
recordings of one speaker are joined; none is used twice, and no speaker is in two sets.
The corpus is in LibriSpeech's layout. An interrupted build goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from espnet_softpl.commands.corpus.command import corpus_parser, run_command

SPEAKERS = {"train-labeled": 10, "train-unlabeled": None, "dev": 4, "test": 6}


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = corpus_parser(__doc__)
    add, number = parser.add_argument, {"type": int, "metavar": "N"}
    text = "directory of the words' folders, or of `dataset` that has them"
    add("--words", type=Path, required=True, help=text)
    text = (
        "lines of folder, tab, word of the transcripts (default: words.tsv beside the "
        "recordings; without one, the folder's name in upper case)"
    )
    add("--table", metavar="FILE", type=Path, help=text)
    for name, most in SPEAKERS.items():
        key, shown = name.removeprefix("train-"), most or "all others"
        text = f"speakers of {name}, drawn by the seed (default: {shown})"
        add(f"--{key}_speakers", default=most, help=text, **number)
        text = f"words of each speaker of {name} at most (default: all)"
        add(f"--{key}_words", help=text, **number)
    add(
        "--words_per_utterance",
        metavar=("FEWEST", "MOST"),
        nargs=2,
        type=int,
        default=[3, 6],
        help="words of an utterance",
    )
    text = "speakers with fewer are left out"
    add("--min_recordings", default=6, help=text, **number)
    text = "samples per second, 4000 to 96000"
    add("--rate", metavar="HZ", type=int, default=16000, help=text)
    return parser


def _plan(options: argparse.Namespace) -> tuple:
    from espnet_softpl.commands.corpus.words import words_corpus

    values = vars(options)
    keys = {name: name.removeprefix("train-") for name in SPEAKERS}
    return words_corpus(
        options.words,
        options.seed,
        {name: values[f"{key}_speakers"] for name, key in keys.items()},
        {name: values[f"{key}_words"] for name, key in keys.items()},
        tuple(options.words_per_utterance),
        options.min_recordings,
        options.table,
        options.rate,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see `run_command` for what it returns."""
    return run_command(get_parser(), _plan, arguments)


if __name__ == "__main__":
    sys.exit(main())
