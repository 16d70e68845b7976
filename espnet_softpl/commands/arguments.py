"""The parser of every command, options that several have, and types of options.

Nothing here takes time to import: `--help`, and what is wrong with the words of a
command, are answered before torch or ESPnet are imported.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import espnet_softpl
from espnet_softpl.core.parsing import Answering


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

    Args:
        description: The text.
        log_level: What is logged if `--log-level` is not given.
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


def existing(text: str) -> str:
    """Take a path, as it is written, of what there is."""
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"{text} does not exist")
    return text


def existing_path(text: str) -> Path:
    """Parse a path of what there is."""
    return Path(existing(text))


def directory(text: str) -> Path:
    """Parse a path of a directory that there is."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no directory")
    return Path(text)


def share(text: str) -> float:
    """Parse a number in [0, 1]."""
    if not 0.0 <= float(text) <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1]")
    return float(text)


def at_least(least: int) -> Callable[[str], int]:
    """Return the parser of a whole number that is not smaller."""

    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is not at least {least}")
        return int(text)

    return number


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
    parser.add_argument(
        "--weight",
        type=share,
        default=0.5,
        help="the teacher's, 0 to 1, in the average; the student has the rest",
    )
