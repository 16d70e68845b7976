"""The parser of every command, options that several have, and how a command ends.

Nothing here takes time to import: `--help`, and what is wrong with the words of a
command, are answered before torch or ESPnet are imported.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import espnet_softpl
from espnet_softpl.core.errors import UserError, ends_quietly, refuse, status_of
from espnet_softpl.core.parsing import Answering
from espnet_softpl.core.quick_imports import quick_imports


class _Help(argparse.RawDescriptionHelpFormatter):
    """Shows a command's text as it is, and the default of an option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        none = action.default in (None, [], {}) or isinstance(action.default, bool)
        if none or "default" in text or action.default is argparse.SUPPRESS:
            return text
        return f"{text} (default: %(default)s)"


class Parser(Answering):
    """A command's parser: the text of its module is its description.

    `log_level` is what is logged if `--log-level` is not given.
    """

    def __init__(self, description: str | None, log_level: str = "WARNING") -> None:
        super().__init__(description=(description or "").strip(), formatter_class=_Help)
        version = f"espnet_softpl {espnet_softpl.__version__}"
        self.add_argument("--version", action="version", version=version)
        self.add_argument(
            "--log-level",
            type=str.upper,
            choices=("DEBUG", "INFO", "WARNING", "ERROR"),
            default=log_level,
            help="least severe messages to show",
        )

    def parse_args(self, args: Sequence[str] | None = None, *more: Any) -> Any:
        """Parse words as `Answering` does, and set the level of the log."""
        options = super().parse_args(args, *more)
        level = vars(options).pop("log_level")
        logging.basicConfig(level=level, format="%(asctime)s %(message)s")
        return options


def command(
    get_parser: Callable[[], argparse.ArgumentParser],
    work: Callable[[argparse.Namespace], Iterable[object]],
) -> Callable[..., int]:
    """Return a command's `main`: parse words (None: the process's), work, print lines.

    `work` imports what takes time. Its errors for the user end the process in a line:
    status 2 for a mistake, 4 for a full disk.
    """

    @ends_quietly
    def main(cmd: Sequence[str] | None = None) -> int:
        options = get_parser().parse_args(cmd)
        try:
            lines = work(options)
        except (UserError, OSError) as error:
            refuse(error, status_of(error))
        sys.stdout.writelines(f"{line}\n" for line in lines)
        return 0

    return main


def late(module: str) -> Callable[[argparse.Namespace], Iterable[object]]:
    """Return the `run` of a module of `espnet_softpl.commands`, which imports ESPnet.

    That takes seconds, and help needs none of it: it is imported when `run` is called.
    """

    def work(options: argparse.Namespace) -> Iterable[object]:
        with quick_imports():
            commands = importlib.import_module(f"espnet_softpl.commands.{module}")
        return commands.run(options)

    return work


class Settings(argparse.Action):
    """ESPnet's action for `NAME=VALUE`, which is imported when the option is given."""

    def __call__(self, parser: Any, namespace: Any, values: Any, *more: Any) -> None:
        """Add a setting to those that were given before."""
        from espnet2.utils.nested_dict_action import NestedDictAction

        action = NestedDictAction(self.option_strings, self.dest)
        action(parser, namespace, values, *more)


def names_in(room: str) -> list[str]:
    """List what a room registers, sorted, from its sources: torch is not imported."""
    place = Path(espnet_softpl.__file__).parent / room
    text = "".join(file.read_text(encoding="utf-8") for file in place.glob("*.py"))
    return sorted(re.findall(r'\bregister\("(\w+)"\)', text))


def _checked(
    parse: Callable[[str], Any], is_allowed: Callable[[Any], bool], fault: str
) -> Callable[[str], Any]:
    """Return a type of options: what parses a text and refuses what is not allowed."""

    def checked(text: str) -> Any:
        if not is_allowed(value := parse(text)):
            raise argparse.ArgumentTypeError(f"{text} {fault}")
        return value

    return checked


existing_path = _checked(Path, lambda path: path.exists(), "does not exist")
existing_file = _checked(
    existing_path, lambda path: not path.is_dir(), "is a directory, not a file"
)
directory = _checked(Path, lambda path: path.is_dir(), "is no directory")
share = _checked(float, lambda value: 0.0 <= value <= 1.0, "is not in [0, 1]")


def new_path(text: str) -> Path:
    """Take a path that can be written to, so that no work is done in vain."""
    path = Path(text)
    places = (path.absolute(), *path.absolute().parents)
    place = next(place for place in places[not path.is_dir() :] if place.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        fault = "cannot be written to" if place.is_dir() else "is no directory"
        raise argparse.ArgumentTypeError(f"{text} cannot be written: {place} {fault}")
    return path


new_file = _checked(
    new_path, lambda path: not path.is_dir(), "is a directory, not a file"
)
new_directory = _checked(
    new_path, lambda path: path.is_dir() or not path.exists(), "is no directory"
)


def existing(text: str) -> str:
    """Take a path, as it is written, of what there is."""
    existing_path(text)
    return text


def at_least(least: int) -> Callable[[str], int]:
    """Return the parser of a whole number that is not smaller."""
    return _checked(int, lambda value: value >= least, f"is not at least {least}")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which model is meant."""
    parser.add_argument(
        "--asr_exp",
        type=existing,
        required=True,
        metavar="DIR",
        help="directory of a training, stock or ours, or archive of espnet2.bin.pack",
    )
    parser.add_argument(
        "--which",
        choices=("student", "teacher", "average"),
        default="student",
        help="which model; a teacher must have weights of its own, which 'student' as "
        "pl_teacher has not",
    )
    parser.add_argument(
        "--student",
        metavar="FILE",
        help="model file of the student, in the experiment or a path (default: the "
        "average of the best epochs, else the best epoch, by valid.cer_ctc or the next "
        "best statistic; else the latest)",
    )
    weight = "the teacher's, 0 to 1, in the average; the student has the rest"
    parser.add_argument("--weight", type=share, default=0.5, help=weight)
