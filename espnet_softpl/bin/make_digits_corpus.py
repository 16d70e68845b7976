"""Makes a corpus of connected digits from recordings of single spoken digits.

The recordings may be laid out like LibriSpeech, with transcripts of one word, or like
Jakobovski/free-spoken-digit-dataset: recordings/{digit}_{speaker}_{index}.wav. The
corpus is in LibriSpeech's layout. An interrupted build goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from espnet_softpl.commands.corpus import DEFAULT_UTTERANCES, SETS
from espnet_softpl.commands.corpus.command import corpus_parser, run_command

if TYPE_CHECKING:
    from espnet_softpl.commands.corpus.build import Corpus


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = corpus_parser(__doc__)
    add = parser.add_argument
    add("--digits", type=Path, required=True, help="directory of the recordings")
    rate_help = "samples per second, 4000 to 96000 (default: the recordings' own)"
    add("--rate", metavar="HZ", type=int, help=rate_help)
    for name in SETS:
        names_help = (
            f"speakers of {name}, or a part of one: NAME:0-14 are the recordings with "
            f"these numbers (default: dealt in alphabetical order)"
        )
        add(f"--{name}", metavar="SPEAKER", nargs="+", default=[], help=names_help)
        add(
            f"--{name}-utterances",
            metavar="N",
            type=int,
            default=DEFAULT_UTTERANCES[name],
            help=f"utterances of each speaker of {name}, 1 to 10000",
        )
    sex_help = "speakers with the sex F in SPEAKERS.TXT; the others have M (default: "
    add("--female", metavar="SPEAKER", nargs="+", default=[], help=sex_help + "none)")
    return parser


def _plan(options: argparse.Namespace) -> Corpus:
    from espnet_softpl.commands.corpus.digits import digits_corpus

    values = vars(options)
    keys = {name: name.replace("-", "_") for name in SETS}
    speakers = {name: values[key] for name, key in keys.items()}
    return digits_corpus(
        options.digits,
        options.seed,
        speakers if any(speakers.values()) else {},
        {name: values[f"{key}_utterances"] for name, key in keys.items()},
        options.rate,
        options.female,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see `run_command` for what it returns."""
    return run_command(get_parser(), _plan, arguments)


if __name__ == "__main__":
    sys.exit(main())
