"""Explain the keys of pseudo-labeling: softpl options [KEY [NAME]].

Without words all keys, a line each; with a key, such as pl_criterion, what it may be;
with one of its names, or your own as module:Class, that part: what it does, where it
comes from, how it fails, its settings and their defaults.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from espnet_softpl.commands.arguments import Parser
from espnet_softpl.commands.options import describe, list_keys
from espnet_softpl.core.errors import UserError, refuse


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = Parser(__doc__)
    parser.add_argument("key", nargs="?", help="of the configuration (default: all)")
    parser.add_argument("name", nargs="?", help="of a part (default: all)")
    return parser


def main(cmd: Sequence[str] | None = None) -> None:
    """Print the page; status 2 for a key or name that is unknown."""
    args = get_parser().parse_args(cmd)
    try:
        print(describe(args.key, args.name) if args.key else list_keys())
    except UserError as error:
        refuse(error)


if __name__ == "__main__":
    sys.exit(main())
