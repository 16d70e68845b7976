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

from espnet_softpl.commands import arguments


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = arguments.Parser(__doc__)
    arguments.add_model_arguments(parser)
    parser.add_argument(
        "--out",
        type=arguments.new_path,
        required=True,
        nargs="+",
        metavar="PATH",
        help="archives, which are replaced; directories, which must be new or empty",
    )
    parser.add_argument(
        "--option",
        type=arguments.existing_file,
        action="append",
        default=[],
        metavar="FILE",
        help="a further file for the archive, such as RESULTS.md; may be repeated "
        "(default: none)",
    )
    add = parser.add_argument
    card_help = "put a model card, README.md, with results and settings into the model"
    add("--card", action="store_true", help=card_help)
    references = "true transcripts for the card (default: those that are found)"
    add("--ref_text", metavar="SET=FILE", action="append", default=[], help=references)
    add("--license", default="other", help="the card's, as the Hub names it: cc-by-4.0")
    add("--language", default="en", help="the card's, a code such as en")
    push_help = "upload the first .zip or .tar to the Hugging Face Hub (default: no)"
    add("--push-to-hub", metavar="USER/MODEL", help=push_help)
    return parser


main = arguments.command(get_parser, arguments.late("export"))


if __name__ == "__main__":
    sys.exit(main())
