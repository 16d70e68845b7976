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
import signal
import sys
from functools import partial

from espnet_softpl.commands.arguments import (
    Parser,
    at_least,
    command,
    directory,
    new_directory,
    share,
)


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("--source", type=directory, required=True, help="directory with wav.scp")
    add(
        "--target",
        type=new_directory,
        required=True,
        help="directory to write; made if new",
    )
    rate = "wanted sample rate in Hz, at least 1"
    add("--fs", type=at_least(1), required=True, help=rate)
    yes_or_no = dict(choices=("true", "false"), default="false")
    resample = "convert audio of another rate; else it is refused"
    add("--resample", **yes_or_no, help=resample)
    pipes = "let a shell run the commands in wav.scp ('... |')"
    add("--allow_pipes", **yes_or_no, help=pipes)
    bad = "share of utterances, 0 to 1, that may be unusable"
    add("--max_bad_share", type=share, default=0.01, help=bad)
    add("--nj", type=at_least(1), default=2, help="processes, at least 1")
    return parser


def _work(options: argparse.Namespace) -> list[str]:
    from espnet_softpl.data.formatting import format_directory

    # Ctrl-C is this process's to deal with.
    quiet = (signal.signal, (signal.SIGINT, signal.SIG_IGN))
    with multiprocessing.get_context("spawn").Pool(options.nj, *quiet) as pool:
        return format_directory(
            options.source,
            options.target,
            options.fs,
            resample=options.resample == "true",
            allow_pipes=options.allow_pipes == "true",
            max_bad_share=options.max_bad_share,
            mapper=partial(pool.imap, chunksize=8),
        )


main = command(get_parser, _work)


if __name__ == "__main__":
    sys.exit(main())
