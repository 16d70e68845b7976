#!/usr/bin/env python3
"""Split a list of utterances into parts of nearly equal audio length."""

from __future__ import annotations

import argparse
from pathlib import Path

from datadir import RecipeError, read_table, run_main, write_table


def split(samples: dict[str, str], parts: int) -> list[dict[str, str]]:
    """Deal the utterances out, the longest first, each to the shortest part.

    Args:
        samples: Number of samples by utterance.
        parts: Number of parts, at least 1; none will be empty.

    Raises:
        RecipeError: There are fewer utterances than parts.
    """
    if not 1 <= parts <= len(samples):
        raise RecipeError(f"{len(samples)} utterances make no {parts} parts")
    result: list[dict[str, str]] = [{} for _ in range(parts)]
    totals = [0] * parts
    by_length = sorted(samples, key=lambda utt: (-int(samples[utt]), utt))
    for utterance in by_length:
        shortest = totals.index(min(totals))
        result[shortest][utterance] = samples[utterance]
        totals[shortest] += int(samples[utterance])
    return result


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--parts", type=int, required=True)
    parser.add_argument("--out", required=True, help="files are named OUT.1, OUT.2 ...")
    args = parser.parse_args()
    for number, part in enumerate(split(read_table(args.samples), args.parts), 1):
        write_table(f"{args.out}.{number}", part)


if __name__ == "__main__":
    run_main(main)
