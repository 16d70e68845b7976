#!/usr/bin/env python3
"""Make copies of labeled audio that are spoken faster or slower.

As in Kaldi, a copy at factor 0.9 is 1/0.9 times as long, its utterances and speakers
are named `sp0.9-...`, and factor 1.0 stands for the original.
"""

from __future__ import annotations

import argparse
import multiprocessing
from fractions import Fraction
from pathlib import Path

import soundfile
from datadir import DataDir, RecipeError, run_main
from scipy.signal import resample_poly
from tqdm import tqdm

from espnet_softpl.data.formatting import write_flac


def perturb(job: tuple[str, str, Fraction]) -> bool:
    """Write one copy: original, FLAC file to write, and speed.

    Returns:
        False if the original cannot be decoded or is empty (the stage that formats
        audio names such files).
    """
    source, target, speed = job
    try:
        audio, rate = soundfile.read(source, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError):
        return False
    if not len(audio):
        return False
    mono = resample_poly(audio.mean(axis=1), speed.denominator, speed.numerator)
    write_flac(target, mono, rate)
    return True


def parse_factor(text: str) -> Fraction:
    """Return a speed factor.

    Raises:
        RecipeError: It is no number from 0.5 to 2.
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
    if 1 in speeds:
        result.merge(data)
    copies = [
        (f"sp{text}-", utt, (path, str(audio / f"sp{text}-{utt}.flac"), factor))
        for factor, text in speeds.items()
        if factor != 1
        for utt, path in data.wav.items()
    ]
    jobs = [job for _, _, job in copies]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        done = pool.imap(perturb, jobs, chunksize=16)
        written = list(tqdm(done, "changing speed", len(jobs), False, disable=None))
    for (prefix, utt, job), good in zip(copies, written, strict=True):
        if good:
            name = prefix + utt
            result.wav[name] = job[1]
            result.speaker[name] = prefix + data.speaker[utt]
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
