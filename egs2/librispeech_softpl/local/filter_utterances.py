#!/usr/bin/env python3
"""Leave out utterances that are too long, too short or without a transcript."""

from __future__ import annotations

import argparse
from pathlib import Path

from datadir import DataDir, RecipeError, run_main


def filter_directory(
    source: Path, target: Path, rate: int, shortest: float, longest: float
) -> str:
    """Write the data directory that training reads.

    Args:
        source: Formatted data directory with `utt2num_samples`.
        target: Data directory to write. Where the source has `text`, utterances
            with an empty transcript are left out too.
        rate: Sample rate in Hz.
        shortest: Shortest duration kept, in seconds.
        longest: Longest duration kept, in seconds.

    Returns:
        One line for the user.

    Raises:
        RecipeError: Nothing is left.
    """
    data = DataDir.load(source)
    seconds = {utt: int(count) / rate for utt, count in data.samples.items()}
    short = {utt for utt, length in seconds.items() if length < shortest}
    long = {utt for utt, length in seconds.items() if length > longest}
    empty = {utt for utt, text in data.text.items() if not text} - short - long
    kept = data.subset(data.wav.keys() - short - long - empty)
    counts = (
        f"{len(short)} shorter than {shortest} s, {len(long)} longer than {longest} s, "
        f"{len(empty)} without text left out"
    )
    if not kept:
        raise RecipeError(f"{source}: no utterance is left ({counts})")
    kept.save(target)
    hours = sum(seconds[utt] for utt in kept.wav) / 3600
    return f"{target}: {len(kept)} utterances, {hours:.2f} h; {counts}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, nargs="+", required=True)
    parser.add_argument("--target", type=Path, nargs="+", required=True)
    parser.add_argument("--fs", type=int, required=True, help="sample rate in Hz")
    parser.add_argument("--min_seconds", type=float, required=True)
    parser.add_argument("--max_seconds", type=float, required=True)
    args = parser.parse_args()
    if not 0 <= args.min_seconds < args.max_seconds:
        raise RecipeError("--min_seconds must be at least 0 and below --max_seconds")
    for source, target in zip(args.source, args.target, strict=True):
        limits = args.fs, args.min_seconds, args.max_seconds
        print(filter_directory(source, target, *limits))


if __name__ == "__main__":
    run_main(main)
