"""What the commands that build a corpus have in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from espnet_softpl.commands.arguments import Parser, new_directory


def corpus_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that all corpora share."""
    parser = Parser(description)
    add = parser.add_argument
    add(
        "--out",
        type=new_directory,
        required=True,
        help="directory of the corpus; made if new",
    )
    text = "seed of everything random, at least 0"
    add("--seed", type=int, default=0, help=text)
    text = "speakers made at once, at least 1; does not change the corpus (default: as "
    add("--jobs", type=int, default=os.cpu_count() or 1, help=f"{text}many as cores)")
    add("--quiet", action="store_true", help="report errors only")
    return parser


def run_command(
    parser: argparse.ArgumentParser,
    plan: Callable[[argparse.Namespace], tuple],
    arguments: Sequence[str] | None,
) -> int:
    """Plan a `Corpus` from the options and build it.

    A ValueError of `plan` is about the options, a CorpusError about anything else.
    Returns 0, or 1 after an error for the user, or 130 after an interruption.
    """
    options = parser.parse_args(arguments)
    for name, least in (("jobs", 1), ("seed", 0)):
        if (value := getattr(options, name)) < least:
            parser.error(f"--{name} must be at least {least}, not {value}")
    from espnet_softpl.commands.corpus.build import CorpusError, build

    try:
        try:
            corpus = plan(options)
        except ValueError as error:
            parser.error(str(error))
        summary = build(corpus, options.out, options.jobs, options.quiet)
    except (CorpusError, OSError) as error:
        sys.stderr.write(f"{parser.prog}: error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{parser.prog}: interrupted; run it again to go on\n")
        return 130
    for name, size in () if options.quiet else summary["sets"].items():
        sys.stdout.write(
            f"{name}: {size['speakers']} speakers, {size['utterances']} utterances, "
            f"{size['minutes']:.1f} minutes\n"
        )
    return 0
