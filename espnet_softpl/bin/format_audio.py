"""Makes plain audio files for training out of any Kaldi-style directory.

A directory has wav.scp, and perhaps segments, text and utt2spk. Its audio may be files
of any format that libsndfile reads, of several channels, or at another sample rate;
parts of recordings (segments); places in Kaldi archives; or, where that is allowed,
the output of commands. What comes out is a directory whose wav.scp names files of one
channel and one rate, for *_data_path_and_name_and_type DIR/wav.scp,speech,sound, and
DIR/utt2num_samples, for unlabeled_shape_file. Audio that fits already is not copied.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from espnet_softpl.core.errors import UserError
from espnet_softpl.data.formatting import format_directory


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = argparse.ArgumentParser(
        prog="format_audio",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--source", type=Path, required=True, help="directory with wav.scp"
    )
    parser.add_argument(
        "--target", type=Path, required=True, help="directory to write; made if new"
    )
    parser.add_argument(
        "--fs", type=int, required=True, help="wanted sample rate in Hz, at least 1"
    )
    for name, what in (
        ("resample", "convert audio of another rate; else it is refused"),
        ("allow_pipes", "let a shell run the commands in wav.scp ('... |')"),
    ):
        parser.add_argument(
            f"--{name}",
            choices=("true", "false"),
            default="false",
            help=f"{what} (default: false)",
        )
    parser.add_argument(
        "--max_bad_share",
        type=float,
        default=0.01,
        help="share of utterances, 0 to 1, that may be unusable (default: 0.01)",
    )
    parser.add_argument(
        "--nj", type=int, default=2, help="processes, at least 1 (default: 2)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The command line, by default the process's own.

    Returns:
        0; a mistake of the user's ends the process with a message and status 2.
    """
    parser = get_parser()
    options = parser.parse_args(arguments)
    if options.fs < 1 or options.nj < 1 or not 0 <= options.max_bad_share <= 1:
        parser.error("--fs and --nj must be at least 1, --max_bad_share 0 to 1")
    try:
        with multiprocessing.get_context("spawn").Pool(options.nj) as pool:
            lines = format_directory(
                options.source,
                options.target,
                options.fs,
                resample=options.resample == "true",
                allow_pipes=options.allow_pipes == "true",
                max_bad_share=options.max_bad_share,
                mapper=partial(pool.imap, chunksize=8),
            )
    except UserError as error:
        parser.error(str(error))
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
