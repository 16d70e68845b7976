"""Count a bigram language model of tokens in transcripts, and write it as ARPA.

For the settings `lm` of pl_shaping_conf and pl_criterion_conf. The text may be that of
the labeled data, or any other of the same language.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from espnet_softpl.commands import token_lm
from espnet_softpl.core.errors import UserError, ends_quietly


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = argparse.ArgumentParser(
        prog="espnet-softpl-token-lm", description=(__doc__ or "").strip()
    )
    add = parser.add_argument
    add("--text", type=Path, required=True, help="lines of 'utterance-id transcript'")
    add("--token_list", type=Path, required=True, help="the model's tokens, one a line")
    type_help = "of the token list (default: %(default)s)"
    add("--token_type", choices=("char", "bpe", "word"), default="char", help=type_help)
    add("--bpemodel", type=Path, help="sentencepiece model, for bpe (default: none)")
    add("--out", type=Path, required=True, help="the ARPA file to write")
    return parser


@ends_quietly
def main(argv: Sequence[str] | None = None) -> int:
    """Write the file and return 0; a user's mistake ends the process with status 2."""
    parser = get_parser()
    options = parser.parse_args(argv)
    try:
        print(token_lm.count(**vars(options)))
    except UserError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"--out: {options.out} cannot be written to: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
