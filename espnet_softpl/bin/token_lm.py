"""Count a bigram language model of tokens in transcripts, and write it as ARPA.

For the settings `lm` of pl_shaping_conf and pl_criterion_conf. The text may be that of
the labeled data, or any other of the same language.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from espnet_softpl.commands.arguments import Parser, existing_path
from espnet_softpl.core.errors import UserError, ends_quietly


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = Parser(__doc__)
    add = parser.add_argument
    there = {"type": existing_path, "metavar": "FILE"}
    text_help = "lines of 'utterance-id transcript'"
    add("--text", required=True, help=text_help, **there)
    add("--token_list", required=True, help="the model's tokens, one a line", **there)
    types = dict(choices=("char", "bpe", "word"), default="char")
    add("--token_type", help="of the token list", **types)
    add("--bpemodel", help="sentencepiece model, for bpe (default: none)", **there)
    add("--out", type=Path, required=True, help="the ARPA file to write")
    return parser


@ends_quietly
def main(argv: Sequence[str] | None = None) -> int:
    """Write the file and return 0; a user's mistake ends the process with status 2."""
    parser = get_parser()
    options = parser.parse_args(argv)
    from espnet_softpl.commands import token_lm

    try:
        print(token_lm.count(**vars(options)))
    except UserError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"--out: {options.out} cannot be written to: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
