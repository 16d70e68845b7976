"""What a command answers to options that it does not have: the nearest, in a line."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from espnet_softpl.core.registry import did_you_mean

# What argparse, and ESPnet's parser of a file's keys, say.
_KEY = re.compile(r"unrecognized arguments: (\S+) \(from (.*)\)")
_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)")


class Answering(argparse.ArgumentParser):
    """A parser that takes `--log-level` for `--log_level`, and that refuses in a line.

    It comes first among the bases of a class, ESPnet's parser of files behind it.
    """

    def parse_args(self, args: Sequence[str] | None = None, *more: Any) -> Any:
        """Parse words, those of the process if None; status 2 for what is wrong."""
        words = list(sys.argv[1:] if args is None else args)
        end = words.index("--") if "--" in words else len(words)
        return super().parse_args([*map(self._spelled, words[:end]), *words[end:]])

    def _spelled(self, word: str) -> str:
        """Return an option, or its beginning, as it was declared; others as is."""
        name, equals, value = word.partition("=")
        if not name.startswith("--") or " " in name:
            return word
        known = self._option_string_actions
        for own in (name, f"--{name[2:].replace('-', '_')}", name.replace("_", "-")):
            if any(option.startswith(own) for option in known):
                return f"{own}{equals}{value}"
        hint = did_you_mean(name, known) or " See --help."
        self.error(f"unknown option {name!r}.{hint}")

    def error(self, message: str) -> NoReturn:
        """End with a message, status 2 and, unlike argparse, without the usage."""
        if found := _KEY.fullmatch(message):
            hint = did_you_mean(found[1], [action.dest for action in self._actions])
            message = f"{found[2]}: unknown key {found[1]!r}.{hint or ' See --help.'}"
        elif found := _CHOICE.search(message):
            message += did_you_mean(found[1], re.findall(r"[\w-]+", found[2]))
        self.exit(2, f"{self.prog}: error: {message}\n")
