"""Continuous pseudo-labeling for ESPnet.

`softpl COMMAND` is `python -m espnet_softpl.bin.COMMAND`.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType

from espnet_softpl import bin as commands
from espnet_softpl.commands.arguments import Parser


def module_of(name: str) -> ModuleType:
    """Import the module of a command; importing it takes no time."""
    return importlib.import_module(f"{commands.__name__}.{name}")


def names() -> dict[str, str]:
    """Return the module of each command: `add-pl`, in short `add`, is `add_pl`."""
    found = [module.name for module in pkgutil.iter_modules(commands.__path__)]
    return {name.removesuffix("_pl").replace("_", "-"): name for name in found}


def get_parser() -> argparse.ArgumentParser:
    """Return one parser of all commands: for `--help`, and for completion by shtab."""
    parser = Parser(__doc__)
    parser.prog = "softpl"
    plain = argparse.ArgumentParser
    table = parser.add_subparsers(metavar="COMMAND", parser_class=plain, required=True)
    for name, module in names().items():
        inner = module_of(module).get_parser()
        line = (inner.description or "").partition("\n")[0]
        table.add_parser(name, parents=[inner], add_help=False, help=line)
    return parser


def main(cmd: Sequence[str] | None = None) -> int | None:
    """Run the command that the first word names on the other words."""
    words = list(sys.argv[1:] if cmd is None else cmd)
    known = names()
    if not words or words[0] not in known:
        get_parser().parse_args(words or ["--help"])  # Ends by itself.
    sys.argv = [f"softpl {words[0]}", *words[1:]]  # As messages name the command.
    return module_of(known[words[0]]).main(words[1:])


if __name__ == "__main__":
    sys.exit(main())
