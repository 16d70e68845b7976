"""The Python interpreter, but for one module: `espnet2.bin.asr_train` becomes ours.

For a stock ESPnet recipe, whose scripts start everything as ``${python} ...``::

    ./asr.sh --python "python3 -m espnet_softpl" --asr_config conf/train_asr_pl.yaml ...

This process becomes the interpreter itself (the same process id, signals, standard
input, exit status and ``sys.path``) with the arguments that it was given; one module
name among them is exchanged. So every other command of the recipe runs as before.
"""

from __future__ import annotations

import os
import pkgutil
import sys
from collections.abc import Sequence
from typing import NamedTuple

from espnet_softpl import bin as commands

# What recipes start -> what is started instead.
REDIRECTED = {"espnet2.bin.asr_train": "espnet_softpl.bin.train"}
# Python's options that take a value, in the same word or in the next one.
TAKE_VALUE = ("W", "X")

USAGE = """\
Usage: python -m espnet_softpl [PYTHON OPTION]... -m MODULE [ARGUMENT]...
       python -m espnet_softpl [PYTHON OPTION]... -c COMMAND | FILE | - [ARGUMENT]...

Runs MODULE, COMMAND, FILE or standard input as python would, except for the module
espnet2.bin.asr_train: espnet_softpl.bin.train takes its place, which is the same
command where the configuration has no pl_criterion. For ESPnet's recipes:
  ./asr.sh --python "python3 -m espnet_softpl" --asr_config conf/train_asr_pl.yaml ...

Commands of this package, each with --help:
"""


class Call(NamedTuple):
    """A command line of Python.

    Attributes:
        options: Python's own options.
        module: The module to run; None where it is another kind of program.
        rest: The module's arguments; or the program (a file, ``-``, ``-c`` and its
            text) and its arguments; or nothing.
    """

    options: list[str]
    module: str | None
    rest: list[str]


def parse(arguments: Sequence[str]) -> Call:
    """Split a command line as Python does.

    Args:
        arguments: What follows the interpreter.

    Returns:
        Its parts. An incomplete command line (``-m`` at the end) is left to Python to
        refuse: it becomes options alone.
    """
    words = list(arguments)
    options: list[str] = []
    while words and words[0].startswith("-") and words[0] != "-":
        word = words.pop(0)
        if word.startswith("--"):
            options.append(word)
            if word == "--check-hash-based-pycs" and words:
                options.append(words.pop(0))
            continue
        for place, letter in enumerate(word[1:], 1):
            before, value = word[:place], word[place + 1 :]
            if letter == "c":
                return Call(options, None, [word, *words])
            if letter == "m" and (value or words):
                if before != "-":
                    options.append(before)
                return Call(options, value or words.pop(0), words)
            if letter in TAKE_VALUE:
                options.extend([word] if value or not words else [word, words.pop(0)])
                break
        else:
            options.append(word)
    return Call(options, None, words)


def command(own: Sequence[str], given: Sequence[str]) -> list[str]:
    """Return the arguments of the interpreter that is to take over.

    Args:
        own: How this module was started, without the interpreter, e.g. ``-u``, ``-m``,
            ``espnet_softpl`` and what follows; its options of Python are kept.
        given: The arguments of this module.

    Returns:
        What follows the interpreter.
    """
    call = parse(given)
    words = [*parse(own).options, *call.options]
    if call.module is not None:
        words += ["-m", REDIRECTED.get(call.module, call.module)]
    return [*words, *call.rest]


def usage() -> str:
    """Return how to use this, with the names of the package's commands."""
    found = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
    return USAGE + "".join(f"  python -m {commands.__name__}.{n}\n" for n in found)


def main() -> int:
    """Become the interpreter; return only where there is nothing to run.

    Returns:
        0 after ``--help`` alone, 2 without arguments: a program on standard input
        needs ``-``.
    """
    given = sys.argv[1:]
    if not given or given in (["-h"], ["--help"]):
        (sys.stdout if given else sys.stderr).write(usage())
        return 0 if given else 2
    words = command(sys.orig_argv[1:], given)
    os.execv(sys.executable, [sys.executable, *words])


if __name__ == "__main__":
    sys.exit(main())
