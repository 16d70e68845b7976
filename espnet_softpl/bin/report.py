"""Write one HTML page about experiments: errors, labels, monitors, settings.

It reads what trainings have written so far, running or finished, with pseudo-labels or
without; it changes nothing in them. The page (report.html) needs no network.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from espnet_softpl.commands.arguments import Parser, command, directory, new_directory
from espnet_softpl.core.errors import UserError


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = Parser(__doc__)
    add = parser.add_argument
    text = "output_dir of a training, stock ESPnet's or this package's"
    add("experiments", metavar="EXP", type=directory, nargs="+", help=text)
    text = "directory for report.html; it is made, and a file of this name is replaced"
    add("--out", metavar="DIR", type=new_directory, default=Path("report"), help=text)
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


def _work(options: argparse.Namespace) -> list[object]:
    if importlib.util.find_spec("plotly") is None:
        raise UserError("plotly is not installed: pip install plotly")
    from espnet_softpl.commands.report.decodings import read_references
    from espnet_softpl.commands.report.page import write_page
    from espnet_softpl.commands.report.runs import read_runs

    runs = read_runs(options.experiments, read_references(options.ref_text))
    try:
        page = write_page(runs, options.out, options.audio)
    except OSError as error:
        place = f"--out: {options.out} cannot be written to"
        raise UserError(f"{place}: {error}") from error
    return [*(f"{run.name}: {note}" for run in runs for note in run.notes), page]


main = command(get_parser, _work)


if __name__ == "__main__":
    sys.exit(main())
