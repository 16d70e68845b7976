#!/usr/bin/env python3
"""Decode every audio file of a data directory and make it fit for training.

Files that are mono and have the wanted rate are used in place. Others are written as
16-bit FLAC: several channels are averaged, and another rate is converted only on
request. Audio that cannot be decoded, or is empty, is named in `bad_audio`, left
out, and tolerated up to a share of the set.
"""

from __future__ import annotations

import argparse
import multiprocessing
from functools import partial
from pathlib import Path

from datadir import DataDir, RecipeError, run_main
from tqdm import tqdm

from espnet_softpl.data.formatting import (
    Cut,
    Job,
    Mapper,
    Recording,
    check_rates,
    format_recording,
    list_bad,
)


def format_directory(
    source: Path, target: Path, args: argparse.Namespace, mapper: Mapper
) -> None:
    """Format one data directory.

    Args:
        source: Data directory with original audio.
        target: Data directory to write.
        args: Options `fs`, `resample` and `max_bad_share`.
        mapper: `map`, or one that works in parallel and keeps the order.

    Raises:
        RecipeError: Audio has another rate and resampling was not asked for, or too
            much of it is unusable.
    """
    data = DataDir.load(source)
    audio = str(target / "audio")
    jobs = [
        Job(Recording(path, "sound", (Cut(utt),)), audio, args.fs, args.resample)
        for utt, path in data.wav.items()
    ]
    done = mapper(format_recording, jobs)
    shown = tqdm(done, f"formatting {source.name}", len(jobs), False, disable=None)
    found = [item for items in shown for item in items]
    check_rates(found, args.fs)
    if warning := list_bad(found, args.max_bad_share, target / "bad_audio"):
        print(f"warning: {warning}")
    good = [item for item in found if item.path]
    data = data.subset(item.utterance for item in good)
    data.wav = {item.utterance: item.path for item in good}
    data.samples = {item.utterance: str(item.samples) for item in good}
    data.save(target)
    hours = sum(item.samples for item in good) / args.fs / 3600
    mixed = sum(item.channels > 1 for item in good)
    print(
        f"{target}: {len(good)} utterances, {hours:.2f} h; "
        f"{sum(item.written for item in good)} converted"
        + (f" ({mixed} averaged from several channels)" if mixed else "")
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--source", type=Path, nargs="+", required=True, help="data directories"
    )
    parser.add_argument(
        "--target", type=Path, nargs="+", required=True, help="as many to write"
    )
    parser.add_argument("--fs", type=int, required=True, help="sample rate in Hz")
    parser.add_argument(
        "--resample",
        choices=("true", "false"),
        default="false",
        help="convert audio of another rate; else it is refused (default: false)",
    )
    parser.add_argument(
        "--max_bad_share",
        type=float,
        default=0.01,
        help="share of a set's audio, 0 to 1, that may be unusable (default: 0.01)",
    )
    parser.add_argument(
        "--nj", type=int, default=2, help="number of processes (default: 2)"
    )
    args = parser.parse_args()
    args.resample = args.resample == "true"
    if args.fs < 1 or args.nj < 1 or not 0 <= args.max_bad_share <= 1:
        raise RecipeError("--fs and --nj must be at least 1, --max_bad_share 0 to 1")
    pairs = list(zip(args.source, args.target, strict=True))
    with multiprocessing.get_context("spawn").Pool(args.nj) as pool:
        for source, target in pairs:
            format_directory(source, target, args, partial(pool.imap, chunksize=8))


if __name__ == "__main__":
    run_main(main)
