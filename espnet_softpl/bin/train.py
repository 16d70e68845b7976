"""Train with pseudo-labels: `espnet2.bin.asr_train` with the `pl_*` options.

Every option is a key of the YAML file, too. The command line wins over the file.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from espnet_softpl.commands.arguments import Parser, existing_file
from espnet_softpl.commands.options import list_keys
from espnet_softpl.core.errors import refuse
from espnet_softpl.core.parsing import Answering
from espnet_softpl.core.quick_imports import quick_imports
from espnet_softpl.core.registry import did_you_mean
from espnet_softpl.training.keys import OTHERS, PARTS


def get_parser() -> argparse.ArgumentParser:
    """Return a parser for `--help` alone: ESPnet's takes seconds to import."""
    parser = Parser(__doc__, log_level="INFO")
    parser.usage = "%(prog)s --config FILE --output_dir DIR [--OPTION VALUE]..."
    all_help = "list ESPnet's options, too: 900 lines"
    parser.add_argument("--help-all", action="store_true", help=all_help)
    parser.add_argument("--config", metavar="FILE", help="configuration, as of add_pl")
    parser.add_argument("--output_dir", metavar="DIR", help="experiment directory")
    parser.add_argument("--ngpu", help="number of GPUs, at least 0 (default: 0)")
    resume = "go on where the run in --output_dir stopped (default: false)"
    parser.add_argument("--resume", choices=("true", "false"), help=resume)
    for option in (*PARTS, *OTHERS):  # For completion; the epilog has them.
        parser.add_argument(option, help=argparse.SUPPRESS)
    parser.epilog = f"{list_keys()}\n\nWhat a key may be: softpl options KEY"
    return parser


def _check_keys(
    parser: argparse.ArgumentParser, words: Sequence[str], config: str | None
) -> None:
    """Refuse what looks like a key of ours and is none; ESPnet checks the others."""
    import yaml  # Not for --help, which works where nothing is installed.

    own = [option.removeprefix("--") for option in (*PARTS, *OTHERS)]
    try:
        with open(config or os.devnull, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        parser.error(f"{config} is no YAML file of keys and values: {error}")
    if config and not isinstance(content, dict):
        fault = "it is empty" if content is None else f"it holds {content!r:.60}"
        parser.error(f"{config} is no YAML file of keys and values: {fault}")
    keys = list(content or ())
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    keys += [  # Which may be shortened.
        key
        for key in (option[2:].replace("-", "_") for option in options)
        if not any(name.startswith(key) for name in own)
    ]
    for key in map(str, keys):
        if key.startswith(("pl_", "unlabeled_")) and key not in own:
            hint = did_you_mean(key, own) or " See softpl options."
            parser.error(f"unknown key {key!r}.{hint}")


def main(cmd: Sequence[str] | None = None) -> None:
    """Run the training with command-line arguments, those of the process if None."""
    words = list(sys.argv[1:] if cmd is None else cmd)
    if {"-h", "--help", "--version"} & set(words):
        get_parser().parse_args(words)
    early = Answering(add_help=False, allow_abbrev=False)
    early.add_argument("--config", type=existing_file)
    given, _ = early.parse_known_args(words)
    _check_keys(early, words, given.config)
    if {"--help-all", "--help_all"} & set(words):
        words = ["--help"]
    try:
        with quick_imports():
            from espnet_softpl.training.task import SoftPLTask

        SoftPLTask.main(cmd=words)
    except KeyboardInterrupt:  # Before the training itself, which deals with it.
        refuse("interrupted", status=128 + signal.SIGINT)


if __name__ == "__main__":
    main()
