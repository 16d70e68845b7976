"""Explain the keys of pseudo-labeling: softpl options [KEY [NAME]].

Without words all keys, a line each; with a key, such as pl_criterion, what it may be;
with one of its names, or your own as module:Class, that part: what it does, where it
comes from, how it fails, its settings and their defaults.
"""

from __future__ import annotations

import argparse
import sys

from espnet_softpl.commands.arguments import Parser, command
from espnet_softpl.commands.options import describe, list_keys


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = Parser(__doc__)
    parser.add_argument("key", nargs="?", help="of the configuration (default: all)")
    parser.add_argument("name", nargs="?", help="of a part (default: all)")
    return parser


def _work(options: argparse.Namespace) -> list[str]:
    key = options.key
    return [describe(key, options.name) if key else list_keys()]


main = command(get_parser, _work)


if __name__ == "__main__":
    sys.exit(main())
