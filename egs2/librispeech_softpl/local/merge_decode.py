#!/usr/bin/env python3
"""Prepare decoding (`--source`), say what is left of it (`--rest`), join it (`--dir`).

Preparing joins the dev and test sets, so that one job decodes both. What is left is
split for the jobs; hypotheses of a decoding that was stopped are kept. Joining checks
that every utterance has a hypothesis.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from datadir import RecipeError, examples, read_table, run_main, write_table
from split_keys import split

KEPT = "text.kept"  # Of a decoding that was stopped.


def prepare(sources: list[Path], out: Path) -> None:
    """Write `wav.scp` and `utt2num_samples` of the joined sets.

    Args:
        sources: Formatted data directories.
        out: Directory to write.

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
    write_table(out / "utt2num_samples", samples)


def collect(directory: Path) -> dict[str, str]:
    """Return the hypotheses of all jobs, those before a stop included.

    A line without an end was cut off with its job.
    """
    text: dict[str, str] = {}
    for file in (directory / KEPT, *directory.glob("[0-9]*/1best_recog/text")):
        if file.exists():
            whole = file.read_bytes().rpartition(b"\n")[0].decode("utf-8")
            pairs = (line.partition(" ") for line in whole.split("\n") if line)
            text.update((utterance, words) for utterance, _, words in pairs)
    return text


def rest(directory: Path, scp: Path, parts: int) -> None:
    """Keep what has been decoded, and split the rest into `keys/keys.1` and so on.

    Args:
        directory: Output directory of decoding, with one folder per job.
        scp: Audio that is to be decoded, beside its `utt2num_samples`.
        parts: Number of jobs; fewer if fewer utterances are left.
    """
    text = collect(directory)
    samples = read_table(scp.with_name("utt2num_samples"))
    left = {key: samples[key] for key in read_table(scp) if key not in text}
    if text:
        write_table(directory / KEPT, text)
        total = len(text) + len(left)
        print(f"  {directory} goes on: {len(left)} of {total} utterances are left")
    shutil.rmtree(directory / "keys", ignore_errors=True)
    (directory / "keys").mkdir(parents=True)
    for number, part in enumerate(
        split(left, min(parts, len(left))) if left else (), 1
    ):
        write_table(directory / "keys" / f"keys.{number}", part)


def join(directory: Path, scp: Path) -> None:
    """Write `text` from the hypotheses of all jobs.

    Args:
        directory: Output directory of decoding, with one folder per job.
        scp: Audio that was to be decoded.

    Raises:
        RecipeError: An utterance has no hypothesis.
    """
    text = collect(directory)
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
    parser.add_argument("--rest", type=Path)
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--scp", type=Path)
    parser.add_argument("--parts", type=int, default=1)
    args = parser.parse_args()
    if args.rest:
        rest(args.rest, args.scp, args.parts)
    elif args.dir:
        join(args.dir, args.scp)
    else:
        prepare(args.source, args.out)


if __name__ == "__main__":
    run_main(main)
