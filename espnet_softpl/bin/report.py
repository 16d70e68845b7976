"""Write one HTML page about experiments: errors, labels, monitors, settings.

It reads what trainings have written so far, running or finished, with pseudo-labels or
without; it changes nothing in them. The page (report.html) needs no network.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from espnet_softpl.commands.arguments import Parser, directory
from espnet_softpl.core.errors import UserError, ends_quietly


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add(
        "experiments",
        metavar="EXP",
        type=directory,
        nargs="+",
        help="output_dir of a training, stock ESPnet's or this package's",
    )
    add(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("report"),
        help="directory for report.html; it is made, and a file of this name is "
        "replaced",
    )
    add(
        "--ref_text",
        metavar="SET=FILE",
        action="append",
        default=[],
        help="true transcripts of a decoded set, 'utterance transcript' a line, if "
        "they are not found by themselves: beside the validation data, or in "
        "score_wer/ref.trn; once for each set (default: none)",
    )
    add(
        "--audio",
        action="store_true",
        help="put the audio of recorded label samples (pl_samples) into the page, to "
        "be listened to beside them; it grows by 1 to 2 MB a minute",
    )
    return parser


@ends_quietly
def main(argv: Sequence[str] | None = None) -> int:
    """Write the page and return 0; a user's mistake ends the process with status 2."""
    parser = get_parser()
    options = parser.parse_args(argv)
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out: {options.out} is no directory")
    for name in ("jinja2", "plotly", "pandas"):
        if importlib.util.find_spec(name) is None:
            parser.error(f"{name} is not installed: pip install {name}")
    from espnet_softpl.commands.report.decodings import read_references
    from espnet_softpl.commands.report.page import write_page
    from espnet_softpl.commands.report.runs import read_runs

    try:
        runs = read_runs(options.experiments, read_references(options.ref_text))
        page = write_page(runs, options.out, options.audio)
    except UserError as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"--out: {options.out} cannot be written to: {error}")
    for run in runs:
        for note in run.notes:
            print(f"{run.name}: {note}")
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
