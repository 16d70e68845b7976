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

from espnet_softpl.commands.arguments import (
    Parser,
    add_model_arguments,
    existing_path,
)
from espnet_softpl.core.errors import UserError, ends_quietly, refuse, status_of
from espnet_softpl.core.quick_imports import quick_imports


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = Parser(__doc__)
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
        type=existing_path,
        action="append",
        default=[],
        metavar="FILE",
        help="a further file for the archive, such as RESULTS.md; may be repeated "
        "(default: none)",
    )
    return parser


@ends_quietly
def main(cmd: Sequence[str] | None = None) -> None:
    """Run the command on its words; None takes those of the process."""
    args = get_parser().parse_args(cmd)
    # ESPnet takes seconds to import, and help needs none of it.
    with quick_imports():
        from espnet_softpl.commands.experiment import open_experiment
        from espnet_softpl.commands.export import export

    try:
        with open_experiment(args.asr_exp, args.out[0]) as experiment:
            weights = experiment.weights(args.which, args.student, args.weight)
            names = export(experiment, weights, args.which, args.out, args.option)
    except (UserError, OSError) as error:
        refuse(error, status_of(error))
    print(f"{args.which}: {weights.source}")
    for out in args.out:
        print(f"{out}: {', '.join(names)}")


if __name__ == "__main__":
    sys.exit(main())
