"""Take a model away: student, teacher or their average as a stock ESPnet model.

--out with the suffix of an archive (.zip, .tar, .tgz, .tar.gz, .tbz2, .txz) packs as
espnet2.bin.pack does: Speech2Text.from_pretrained(FILE) and every other ESPnet tool
take it where this package is not installed. Any other --out is made a directory with
config.yaml and the model file. Both can be given. A training that still goes on can be
exported from too. Exit status 2 if something is wrong, and then nothing is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from espnet_softpl.commands.experiment import WHICH, open_experiment
from espnet_softpl.commands.export import check_target, export
from espnet_softpl.core.errors import UserError, refuse


def share(text: str) -> float:
    """Parse a number in [0, 1]."""
    value = float(text)
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1]")
    return value


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which model is meant."""
    parser.add_argument(
        "--asr_exp",
        required=True,
        metavar="DIR",
        help="experiment directory (the --output_dir of a training, stock or ours), or "
        "an archive of espnet2.bin.pack",
    )
    parser.add_argument(
        "--which",
        choices=WHICH,
        default="student",
        help="which model; a teacher must have weights of its own, which 'student' as "
        "pl_teacher has not (default: %(default)s)",
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
        help="with --which average: weight of the teacher, 0 to 1; the student has the "
        "rest. Counters are the student's (default: %(default)s)",
    )


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = argparse.ArgumentParser(
        prog="export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        nargs="+",
        metavar="PATH",
        help="archives, which are replaced; directories, which must be new or empty",
    )
    parser.add_argument(
        "--option",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a further file for the archive, such as RESULTS.md; may be repeated "
        "(default: none)",
    )
    return parser


def main(cmd: Sequence[str] | None = None) -> None:
    """Run the command on its words; None takes those of the process."""
    args = get_parser().parse_args(cmd)
    try:
        for out in args.out:
            check_target(out)
        with open_experiment(args.asr_exp) as experiment:
            weights = experiment.weights(args.which, args.student, args.weight)
            names = export(experiment, weights, args.which, args.out, args.option)
    except (UserError, OSError) as error:
        refuse(error)
    print(f"{args.which}: {weights.source}")
    for out in args.out:
        print(f"{out}: {', '.join(names)}")


if __name__ == "__main__":
    sys.exit(main())
