#!/usr/bin/env python3
"""Prepare decoding (`--source`) or join the output of its jobs (`--dir`).

Preparing joins the dev and test sets, so that one job decodes both, and splits their
utterances. Joining checks that every utterance has a hypothesis.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from datadir import RecipeError, examples, read_table, run_main, write_table
from split_keys import split


def prepare(sources: list[Path], out: Path, parts: int) -> None:
    """Write `wav.scp` and `keys.1`, `keys.2` ... of the joined sets.

    Args:
        sources: Formatted data directories.
        out: Directory to write.
        parts: Number of decoding jobs, at least 1.

    Raises:
        RecipeError: An utterance name stands for different audio in two sets.
    """
    wav: dict[str, str] = {}
    samples: dict[str, str] = {}
    for source in sources:
        for utterance, path in read_table(source / "wav.scp").items():
            if wav.setdefault(utterance, path) != path:
                raise RecipeError(
                    f"utterance {utterance} is {wav[utterance]} in one set and "
                    f"{path} in another; give them different names"
                )
        samples.update(read_table(source / "utt2num_samples"))
    write_table(out / "wav.scp", wav)
    for number, part in enumerate(split(samples, parts), 1):
        write_table(out / f"keys.{number}", part)


def join(directory: Path, scp: Path, parts: int) -> None:
    """Write `text` from the hypotheses of all jobs.

    Args:
        directory: Output directory of decoding, with one folder per job.
        scp: Audio that was to be decoded.
        parts: Number of jobs.

    Raises:
        RecipeError: An utterance has no hypothesis.
    """
    text: dict[str, str] = {}
    for number in range(1, parts + 1):
        text.update(read_table(directory / str(number) / "1best_recog" / "text"))
    missing = read_table(scp).keys() - text.keys()
    if missing:
        raise RecipeError(
            f"{directory}: {len(missing)} utterances were not decoded: "
            f"{examples(missing)}; see {directory}/log"
        )
    write_table(directory / "text", text)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--scp", type=Path)
    parser.add_argument("--parts", type=int, required=True)
    args = parser.parse_args()
    if args.dir:
        join(args.dir, args.scp, args.parts)
    else:
        prepare(args.source, args.out, args.parts)


if __name__ == "__main__":
    run_main(main)
