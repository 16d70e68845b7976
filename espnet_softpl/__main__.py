"""The Python interpreter, except for one module: `espnet2.bin.asr_train` becomes ours.

For a stock ESPnet recipe, whose scripts start everything as ``${python} ...``::

    ./asr.sh --python "python3 -m espnet_softpl" --asr_config conf/train_asr_pl.yaml ...

This process becomes the interpreter itself (the same process id, signals, standard
input, exit status and `sys.path`) with the arguments that it was given; one module
name among them is exchanged. So every other command of the recipe runs as before.
"""

from __future__ import annotations

import os
import pkgutil
import re
import sys
from collections.abc import Sequence

from espnet_softpl import bin as commands

# What recipes start -> what is started instead.
REDIRECTED = {"espnet2.bin.asr_train": "espnet_softpl.bin.train"}
# An option of Python with a value, behind flags or not, and the rest of its word.
OPTION_WITH_VALUE = re.compile(r"-[^-cmWX]*([cmWX])(.*)", re.DOTALL)
USAGE = """\
Usage: python -m espnet_softpl [PYTHON OPTION]... -m MODULE [ARGUMENT]...
       python -m espnet_softpl [PYTHON OPTION]... -c COMMAND | FILE | - [ARGUMENT]...

Runs MODULE, COMMAND, FILE or standard input as python would, except for the module
espnet2.bin.asr_train: espnet_softpl.bin.train takes its place, which is the same
command if the configuration has no pl_criterion. For ESPnet's recipes:
  ./asr.sh --python "python3 -m espnet_softpl" --asr_config conf/train_asr_pl.yaml ...

Commands of this package, each with --help:
"""


def find_module(words: Sequence[str]) -> tuple[int, int] | None:
    """Find the name of the module that Python would run.

    Args:
        words: What follows the interpreter.

    Returns:
        The place of the word and where the name begins in it: (1, 0) in `-um name`,
        (0, 3) in `-umname`. None if another kind of program is run, or nothing.
    """
    place = 0
    while place < len(words) and words[place].startswith("-") and words[place] != "-":
        option = OPTION_WITH_VALUE.fullmatch(words[place])
        in_next = words[place] == "--check-hash-based-pycs" or (
            option and not option[2]
        )
        if option and option[1] == "c":
            return None
        if option and option[1] == "m":
            place += bool(in_next)
            start = 0 if in_next else option.start(2)
            return (place, start) if place < len(words) else None
        place += 2 if in_next else 1
    return None


def command(own: Sequence[str], given: Sequence[str]) -> list[str]:
    """Return what follows the interpreter that is to take over.

    Args:
        own: How this module was started: `-u`, `-m`, `espnet_softpl` and what follows;
            its options of Python are kept.
        given: The arguments of this module.
    """
    words = list(given)
    if where := find_module(words):
        place, start = where
        name = words[place][start:]
        words[place] = words[place][:start] + REDIRECTED.get(name, name)
    if where := find_module(own):
        place, start = where
        flags = (own[place][:start] or own[place - 1]).removesuffix("m")
        kept = own[: place if start else place - 1]
        words = [*kept, *([flags] if flags != "-" else []), *words]
    return words


def usage() -> str:
    """Return how to use this, with the names of the package's commands."""
    names = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
    return USAGE + "".join(f"  python -m {commands.__name__}.{n}\n" for n in names)


def main() -> int:
    """Become the interpreter; return only if there is nothing to run.

    Returns:
        0 after `--help`, 2 without arguments: a program on standard input needs `-`.
    """
    given = sys.argv[1:]
    if not given or given in (["-h"], ["--help"]):
        (sys.stdout if given else sys.stderr).write(usage())
        return 0 if given else 2
    words = command(sys.orig_argv[1:], given)
    os.execv(sys.executable, [sys.executable, *words])


if __name__ == "__main__":
    sys.exit(main())
