"""Count a bigram language model of tokens in transcripts, and write it as ARPA.

For the settings `lm` of pl_shaping_conf and pl_criterion_conf. The text may be that of
the labeled data, or any other of the same language.
"""

from __future__ import annotations

import argparse
import sys

from espnet_softpl.commands.arguments import Parser, command, existing_file, new_file


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = Parser(__doc__)
    add = parser.add_argument
    there = {"type": existing_file, "metavar": "FILE"}
    text_help = "lines of 'utterance-id transcript'"
    add("--text", required=True, help=text_help, **there)
    add("--token_list", required=True, help="the model's tokens, one a line", **there)
    types = dict(choices=("char", "bpe", "word"), default="char")
    add("--token_type", help="of the token list", **types)
    add("--bpemodel", help="sentencepiece model, for bpe (default: none)", **there)
    add("--out", type=new_file, required=True, help="the ARPA file to write")
    return parser


def _work(options: argparse.Namespace) -> list[str]:
    from espnet_softpl.commands import token_lm

    return [token_lm.count(**vars(options))]


main = command(get_parser, _work)


if __name__ == "__main__":
    sys.exit(main())
