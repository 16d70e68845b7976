"""The Python interpreter, except for one module: `espnet2.bin.asr_train` becomes ours.

For a stock ESPnet recipe, whose scripts start everything as ``${python} ...``::

    ./asr.sh --python "python3 -m espnet_softpl" --asr_config conf/train_asr_pl.yaml ...

This process becomes the interpreter itself: the same process id, signals, standard
input, exit status and `sys.path`.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

# What `asr.sh --use_lightning true` runs: a training that is not ESPnet's own.
LIGHTNING = "espnet2.bin.lightning_train"
NO_LIGHTNING = f"""\
python -m espnet_softpl: error: {LIGHTNING} (asr.sh --use_lightning true) cannot learn
from pseudo-labels: they need ESPnet's own trainer. Use --use_lightning false, or leave
--python out for a training without pseudo-labels.
"""
# The words after the interpreter, joined by NUL, if they run a module.
MODULE = re.compile(
    r"""(?P<options>(?:(?:
          -[^-cmWX\0]+  # flags: -u, -OO
        | -[^-cmWX\0]*[WX](?:[^\0]+|\0[^\0]*)  # with a value: -Werror, -uX dev
        | --check-hash-based-pycs\0[^\0]*
        | --(?!check-hash-based-pycs\0)[^\0]*
        )\0)*)
        (?P<flags>-[^-cmWX\0]*)m\0?(?P<name>[^\0]+)  # -m name, -umname
    """,
    re.VERBOSE,
)
USAGE = """\
Usage: python -m espnet_softpl [PYTHON OPTION]... -m MODULE [ARGUMENT]...
       python -m espnet_softpl [PYTHON OPTION]... -c COMMAND | FILE | - [ARGUMENT]...

Runs MODULE, COMMAND, FILE or standard input as python would, except for the module
espnet2.bin.asr_train: espnet_softpl.bin.train takes its place, which is the same
command if the configuration has no pl_criterion. For ESPnet's recipes:
  ./asr.sh --python "python3 -m espnet_softpl" --asr_config conf/train_asr_pl.yaml ...

The commands of this package: softpl --help
"""


def command(own: Sequence[str], given: Sequence[str]) -> list[str]:
    """Return Python's options in `own`, how this was started, and its arguments."""
    kept, words = [], "\0".join(given)
    match = MODULE.match(words)
    if match and match["name"] == "espnet2.bin.asr_train":
        start, end = match.span("name")
        words = f"{words[:start]}espnet_softpl.bin.train{words[end:]}"
    if match := MODULE.match("\0".join(own)):
        kept = f"{match['options']}{match['flags']}".split("\0")
        if kept[-1] == "-":
            kept.pop()
    return [*kept, *words.split("\0")]


def main() -> int:
    """Become the interpreter; return 0 after `--help`, 2 if there is nothing to run."""
    given = sys.argv[1:]
    if given in ([], ["-h"], ["--help"]):
        print(USAGE, end="", file=sys.stdout if given else sys.stderr)
        return 0 if given else 2
    match = MODULE.match("\0".join(given))
    if match and match["name"] == LIGHTNING:
        sys.stderr.write(NO_LIGHTNING)
        return 2
    os.execv(sys.executable, [sys.executable, *command(sys.orig_argv[1:], given)])


if __name__ == "__main__":
    sys.exit(main())
