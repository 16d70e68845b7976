"""Makes the embedded corpus of synthesized speech in LibriSpeech's layout.

The speech is synthesized by eSpeak NG, which the PyPI package espeakng-loader brings.
eSpeak NG is licensed under GPL-3; the package is an extra of this one:
pip install 'espnet_softpl[mini]'. An interrupted build goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from espnet_softpl.commands.corpus.command import corpus_parser, run_command


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = corpus_parser(__doc__)
    scale = "size of the corpus as a multiple of the default, 0 to 10"
    parser.add_argument("--scale", type=float, default=1.0, help=scale)
    return parser


def _plan(options: argparse.Namespace) -> tuple:
    from espnet_softpl.commands.corpus import espeak
    from espnet_softpl.commands.corpus.mini import mini_corpus

    corpus = mini_corpus(options.seed, options.scale)
    espeak.require()
    return corpus


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see `run_command` for what it returns."""
    return run_command(get_parser(), _plan, arguments)


if __name__ == "__main__":
    sys.exit(main())
