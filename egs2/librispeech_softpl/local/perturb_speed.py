#!/usr/bin/env python3
"""Make copies of labeled audio that are spoken faster or slower.

As in Kaldi, a copy at factor 0.9 is 1/0.9 times as long, its utterances and speakers
are named ``sp0.9-...``, and factor 1.0 stands for the original.
"""

from __future__ import annotations

import argparse
import multiprocessing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import soundfile
from datadir import DataDir, RecipeError, run_main
from scipy.signal import resample_poly
from tqdm import tqdm

from espnet_softpl.data.formatting import write_flac


@dataclass(frozen=True)
class Copy:
    """One perturbed copy to write.

    Attributes:
        source: Original audio.
        target: FLAC file to write.
        factor: Speed, greater than 0.
    """

    source: str
    target: str
    factor: Fraction


def perturb(copy: Copy) -> bool:
    """Write one copy.

    Args:
        copy: What to write.

    Returns:
        False where the original cannot be decoded or is empty (the stage that
        formats audio names such files).
    """
    try:
        audio, rate = soundfile.read(copy.source, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError):
        return False
    if not len(audio):
        return False
    speed = copy.factor
    mono = resample_poly(audio.mean(axis=1), speed.denominator, speed.numerator)
    write_flac(copy.target, mono, rate)
    return True


def parse_factor(text: str) -> Fraction:
    """Return a speed factor.

    Args:
        text: A number from 0.5 to 2.

    Raises:
        RecipeError: It is not.
    """
    try:
        factor = Fraction(text).limit_denominator(1000)
    except ValueError:
        factor = Fraction(0)
    if not 0.5 <= factor <= 2:
        raise RecipeError(f"speed factor '{text}' must be a number from 0.5 to 2")
    return factor


def perturb_directory(
    source: Path, target: Path, audio: Path, factors: list[str], workers: int
) -> DataDir:
    """Write the perturbed data directory.

    Args:
        source: Data directory of the originals.
        target: Data directory to write.
        audio: Directory for the copies.
        factors: Speed factors; 1.0 keeps the originals.
        workers: Number of processes, at least 1.

    Raises:
        RecipeError: A factor is illegal or named twice.
    """
    speeds = {parse_factor(text): text for text in factors}
    if len(speeds) < len(factors):
        raise RecipeError(f"a speed factor is named twice: {' '.join(factors)}")
    data, result = DataDir.load(source), DataDir()
    copies: dict[str, tuple[str, Copy]] = {}
    for factor, text in speeds.items():
        if factor == 1:
            result.merge(data)
            continue
        for utt, path in data.wav.items():
            name = f"sp{text}-{utt}"
            copies[name] = (utt, Copy(path, str(audio / f"{name}.flac"), factor))
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers) as pool:
        jobs = [copy for _, copy in copies.values()]
        done = pool.imap(perturb, jobs, chunksize=16)
        written = list(tqdm(done, "changing speed", len(jobs), False, disable=None))
    for (name, (utt, copy)), good in zip(copies.items(), written, strict=True):
        if good:
            result.wav[name] = copy.target
            result.speaker[name] = name[: -len(utt)] + data.speaker[utt]
            result.set_name[name] = data.set_name[utt]
            result.text[name] = data.text[utt]
    result.save(target)
    return result


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--audio", type=Path, required=True)
    parser.add_argument("--factors", nargs="+", required=True)
    parser.add_argument("--nj", type=int, default=2, help="number of processes")
    args = parser.parse_args()
    result = perturb_directory(
        args.source, args.target, args.audio, args.factors, args.nj
    )
    print(f"{args.target}: {len(result)} utterances at speeds {args.factors}")


if __name__ == "__main__":
    run_main(main)
