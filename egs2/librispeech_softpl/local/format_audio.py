#!/usr/bin/env python3
"""Decode every audio file of a data directory and make it fit for training.

Files that are mono and have the wanted rate are used in place. Others are written as
16-bit FLAC: several channels are averaged, and another rate is converted only on
request. Audio that cannot be decoded, or is empty, is named in ``bad_audio``, left
out, and tolerated up to a share of the set.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from datadir import DataDir, RecipeError, examples, run_main, write_table
from progress import follow


@dataclass(frozen=True)
class Job:
    """What to do with one file.

    Attributes:
        utterance: Its name.
        source: Audio path.
        target: Path of the converted copy, where one is needed.
        rate: Wanted sample rate in Hz.
        resample: Whether another rate may be converted.
    """

    utterance: str
    source: str
    target: str
    rate: int
    resample: bool


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        utterance: Its name.
        path: Audio path to train on, or an empty string.
        samples: Number of samples in that audio.
        channels: Channels found.
        rate: Sample rate found, in Hz.
        problem: Why the audio is unusable, or an empty string.
    """

    utterance: str
    path: str = ""
    samples: int = 0
    channels: int = 0
    rate: int = 0
    problem: str = ""


Mapper = Callable[[Callable[[Job], Outcome], Iterable[Job]], Iterable[Outcome]]


def write_flac(path: str | Path, audio: np.ndarray, rate: int) -> None:
    """Write 16-bit FLAC; the file appears under its name only when complete.

    Args:
        path: File to write; missing parent directories are made.
        audio: Samples (N,), clipped to -1..1.
        rate: Sample rate in Hz.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    soundfile.write(
        temporary, np.clip(audio, -1.0, 1.0), rate, format="FLAC", subtype="PCM_16"
    )
    os.replace(temporary, path)


def format_file(job: Job) -> Outcome:
    """Decode one file completely and convert it where needed.

    Args:
        job: The file and what is wanted.

    Returns:
        The outcome; a wrong rate is no problem of the file, so ``rate`` tells it.
    """
    try:
        audio, rate = soundfile.read(job.source, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        return Outcome(job.utterance, problem=f"cannot be decoded: {error}")
    if not len(audio):
        return Outcome(job.utterance, problem="has no samples")
    if not np.isfinite(audio).all():
        return Outcome(job.utterance, problem="has samples that are not finite")
    channels = audio.shape[1]
    if rate == job.rate and channels == 1:
        return Outcome(job.utterance, job.source, len(audio), channels, rate)
    if rate != job.rate and not job.resample:
        return Outcome(job.utterance, channels=channels, rate=rate)
    mono = audio.mean(axis=1)
    if rate != job.rate:
        # Imported where it is needed: it takes a second in every process.
        from scipy.signal import resample_poly

        shared = math.gcd(rate, job.rate)
        mono = resample_poly(mono, job.rate // shared, rate // shared)
    write_flac(job.target, mono, job.rate)
    return Outcome(job.utterance, job.target, len(mono), channels, rate)


def check(found: list[Outcome], job: Job, max_bad_share: float, report: Path) -> None:
    """Refuse wrong rates and too many bad files, and list the bad ones.

    Args:
        found: Outcome of every file.
        job: Any of the jobs, for the wanted rate.
        max_bad_share: Share of unusable files that is tolerated, 0 to 1.
        report: File for the list of unusable files; removed where there is none.

    Raises:
        RecipeError: A file has another rate and resampling was not asked for, or
            too many files are unusable.
    """
    wrong = [item for item in found if item.rate and not item.path]
    if wrong:
        first = wrong[0]
        raise RecipeError(
            f"{len(wrong)} of {len(found)} files do not have the sample rate "
            f"{job.rate} Hz; {first.utterance} has {first.rate} Hz. Use "
            f"--fs {first.rate} if that is the rate of all data, or "
            "--resample true to convert"
        )
    bad = {item.utterance: item.problem for item in found if item.problem}
    report.unlink(missing_ok=True)
    if bad:
        write_table(report, bad)
        names = f"{len(bad)} of {len(found)} files are unusable: {examples(bad)}"
        if len(bad) > max_bad_share * len(found):
            first = next(iter(bad.items()))
            raise RecipeError(
                f"{names} ({first[0]} {first[1]}); listed in {report}. More than "
                f"--max_bad_share {max_bad_share} of the set is not tolerated"
            )
        print(f"warning: {names}; left out, listed in {report}")


def format_directory(
    source: Path, target: Path, args: argparse.Namespace, mapper: Mapper
) -> None:
    """Format one data directory.

    Args:
        source: Data directory with original audio.
        target: Data directory to write.
        args: Options ``fs``, ``resample`` and ``max_bad_share``.
        mapper: ``map``, or one that works in parallel and keeps the order.

    Raises:
        RecipeError: See ``check``.
    """
    data = DataDir.load(source)
    jobs = [
        Job(utt, path, str(target / "audio" / f"{utt}.flac"), args.fs, args.resample)
        for utt, path in data.wav.items()
    ]
    done = mapper(format_file, jobs)
    found = list(follow(done, len(jobs), f"formatting {source.name}"))
    target.mkdir(parents=True, exist_ok=True)
    check(found, jobs[0], args.max_bad_share, target / "bad_audio")
    good = [item for item in found if item.path]
    converted = [item for item in good if item.path != data.wav[item.utterance]]
    data = data.subset(item.utterance for item in good)
    data.wav = {item.utterance: item.path for item in good}
    data.samples = {item.utterance: str(item.samples) for item in good}
    data.save(target)
    hours = sum(item.samples for item in good) / args.fs / 3600
    mixed = sum(item.channels > 1 for item in good)
    print(
        f"{target}: {len(good)} utterances, {hours:.2f} h; {len(converted)} converted"
        + (f" ({mixed} averaged from several channels)" if mixed else "")
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, nargs="+", required=True)
    parser.add_argument("--target", type=Path, nargs="+", required=True)
    parser.add_argument("--fs", type=int, required=True, help="sample rate in Hz")
    parser.add_argument("--resample", choices=("true", "false"), default="false")
    parser.add_argument("--max_bad_share", type=float, default=0.01)
    parser.add_argument("--nj", type=int, default=2, help="number of processes")
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
