"""Options that several commands have, and types of options."""

from __future__ import annotations

import argparse
from collections.abc import Callable


class _Help(argparse.RawDescriptionHelpFormatter):
    """Shows a command's text as it is, and the default of an option that has one."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        named = "default" in text or action.default is argparse.SUPPRESS
        return text if named or not action.default else f"{text} (default: %(default)s)"


def new_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of a command, without options yet."""
    return argparse.ArgumentParser(prog, description=description, formatter_class=_Help)


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
