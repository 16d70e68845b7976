"""From a trained ESPnet model to a configuration: read, check, write."""

from __future__ import annotations

import argparse
import dataclasses
import math
import shlex
import tempfile
from pathlib import Path

import numpy as np
import torch
from espnet2.train.distributed_utils import DistributedOption

from espnet_softpl import criteria
from espnet_softpl.commands import experiment, packed
from espnet_softpl.commands.add_pl import base_model, data_dirs
from espnet_softpl.commands.add_pl.config import compose, render
from espnet_softpl.commands.experiment import Experiment
from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import atomic_write, load_weights
from espnet_softpl.data import scan, tables
from espnet_softpl.teacher.ema import RUN_SHARE
from espnet_softpl.training import lengths
from espnet_softpl.training.announcement import judge_base
from espnet_softpl.training.schedule import Schedule
from espnet_softpl.training.task import SoftPLTask

# Ours: passes over the unlabeled audio that a run should make, and by how many dB the
# level of unlabeled audio may be another than that of labeled audio.
PASSES, MOST_DECIBELS = 3, 10


def _check_options(args: argparse.Namespace, exp_dir: Path) -> None:
    """Refuse options that cannot work, before anything is read."""
    if args.lr is not None and not 0.0 < args.lr < math.inf:
        raise UserError(f"--lr must be a number above 0, got {args.lr}")
    if args.out.exists() and not args.overwrite:
        raise UserError(f"{args.out} exists; give another --out, or --overwrite")
    if (exp_dir / "checkpoint.pth").exists():
        raise UserError(
            f"{exp_dir} holds a training already, which would be resumed; give another "
            f"--exp_dir"
        )


def _read_base_model(args: argparse.Namespace) -> Experiment:
    """Read the base model from wherever it is, with files that have moved renamed."""
    directory = args.asr_exp or args.archive
    if directory is None:
        directory = packed.fetch(args.model_tag, args.cache_dir)
    if not directory.is_dir():
        default = Path("exp", packed.stem(directory))
        packed.unpack(directory, target := args.unpack_dir or default)
        directory = target
    base = experiment.read_experiment(directory)
    for old, new in args.moved:
        rename = base_model.renaming([(old, new)])
        if experiment.relocate(base.config, rename) == base.config:
            raise UserError(f"--moved {old}: {base.directory} names no such path")
    moved = experiment.relocate(base.config, base_model.renaming(args.moved))
    return dataclasses.replace(base, config=moved)


def _check_audio(base: Experiment, unlabeled: data_dirs.Audio) -> list[str]:
    """Refuse audio that the base model cannot take; say if its level is another."""
    sets = [unlabeled]
    rate = lengths.sample_rate(argparse.Namespace(**base.config))
    data_dirs.check_audio(unlabeled, rate, "--unlabeled", whole=False)
    for part, option in base_model.DATA_OPTIONS.items():
        name = f"{part}_data_path_and_name_and_type"
        specs = [tuple(spec) for spec in base.config[name]]
        entries, kind = scan.speech_scp(specs, name)
        path = next(path for path, what, _ in specs if what == "speech")
        audio = data_dirs.Audio(Path(path), kind, entries)
        data_dirs.check_audio(audio, rate, f"{name} (or give {option})", whole=True)
        sets.append(audio)
    ours, theirs = map(data_dirs.level, sets[:2])
    if not abs(ours - theirs) > MOST_DECIBELS:
        return []
    return [
        f"Note: The level of unlabeled audio is {ours:.0f} dB, of labeled audio "
        f"{theirs:.0f} dB (RMS, median of some {data_dirs.MOST_LEVELS} utterances). "
        f"Bring it to one level: the model knows that of the labeled audio"
    ]


def _length_notes(options: argparse.Namespace) -> list[str]:
    """Say how much audio there is, and whether some of it is unusually long."""
    rate = lengths.sample_rate(options)
    read = tables.read_lengths(lengths.usable_shape_file(options))
    samples = np.array([*read.values()]) / rate  # In seconds.
    total, longest = samples.sum(), samples.max()
    amount = f"{total / 3600:.1f} h" if total >= 3600 else f"{total / 60:.1f} min"
    notes = [
        f"Unlabeled audio: {len(samples)} utterances, {amount}, the longest "
        f"{longest:.1f} s"
    ]
    labeled = lengths.labeled_lengths(options)
    theirs = np.array([*labeled[1].values()]) / rate if labeled else samples
    medians = np.median(samples), np.median(theirs)
    if longest > 2 * theirs.max() or max(medians) > 2 * min(medians):
        notes.append(
            f"Note: Unlabeled utterances have {medians[0]:.1f} s in the median, labeled"
            f" ones {medians[1]:.1f} s and at most {theirs.max():.1f} s. Cut unlabeled "
            f"audio like those: the model knows no others, and memory grows with length"
        )
    return notes


def _advice(options: argparse.Namespace) -> list[str]:
    """Advise epochs and half-life by the mini-batches that the training will have."""
    build = SoftPLTask.build_iter_factory
    factory = build(options, DistributedOption(), "train").factory
    a_pass, steps = factory.unlabeled_pass, factory.num_iters_per_epoch
    schedule = Schedule(**options.pl_schedule_conf)
    unlabeled = schedule.unlabeled_before(options.seed, steps)
    least = -(-PASSES * a_pass // unlabeled)
    epochs = max(least, options.max_epoch)
    enough = ", enough" if options.max_epoch >= least else ""
    updates = schedule.updates(epochs * steps, options.accum_grad)
    advice = [
        f"Advice: max_epoch of {least} or more (it is {options.max_epoch}{enough}), "
        f"for {PASSES} passes over the unlabeled audio: one takes {a_pass} "
        f"mini-batches, an epoch has {unlabeled} of them"
    ]
    if options.pl_teacher == "ema":
        advice.append(
            f"Advice: half-life of the teacher (half_life_steps) of "
            f"{max(RUN_SHARE * updates, 1):.0f} updates, the default: a fifteenth of "
            f"the {updates} of {epochs} epochs"
        )
    return advice


def _training_command(args: argparse.Namespace, exp_dir: Path, base: Experiment) -> str:
    """Return the command that trains, quoted for a shell."""
    had = int(base.config.get("dist_world_size") or base.config.get("ngpu") or 0)
    ngpu = min(torch.cuda.device_count(), had) if args.ngpu is None else args.ngpu
    words = ["python", "-m", "espnet_softpl.bin.train", "--config", str(args.out)]
    words += ["--output_dir", str(exp_dir), "--ngpu", str(ngpu)]
    if ngpu > 1:
        words += ["--multiprocessing_distributed", "true"]
    return shlex.join([*words, "--resume", "true"])


def run(args: argparse.Namespace) -> list[str]:
    """Write the configuration that the options of `bin.add_pl` ask for.

    Returns lines to print, the command to run last. UserError if something cannot work;
    nothing is written then but an unpacked archive.
    """
    parent = args.asr_exp.parent if args.asr_exp else Path("exp")
    # asr.sh names experiments by their configuration, too.
    exp_dir = args.exp_dir or parent / f"asr_{args.out.stem}"
    _check_options(args, exp_dir)
    frame_level = criteria.build(args.criterion).frame_level
    with tempfile.TemporaryDirectory() as directory:
        # What the training needs beside the configuration is written beside its
        # experiment in the end, and until then here.
        staging, trial = Path(directory, "data"), Path(directory, "trial")
        beside = exp_dir.with_name(f"{exp_dir.name}_data")
        base = _read_base_model(args)
        base_model.check_model(base.config, labeled_anew=args.labeled is not None)
        file = base.checkpoint(args.init_param)
        if ":" in str(file):  # ESPnet takes the file's name to end there.
            raise UserError(f"init_param: {file} has a colon in its path; rename it")
        weights = experiment.Weights(load_weights(file), str(file))
        features = base.config.get("input_size") is not None
        unlabeled = data_dirs.merge_audio(
            args.unlabeled, features, staging / "unlabeled"
        )
        data: dict[str, list] = {}
        for part, source in (("train", args.labeled), ("valid", args.valid)):
            if source is not None:
                data |= data_dirs.labeled_options(source, part, base.config, staging)
        complete = dataclasses.replace(base, config={**base.config, **data})
        base_model.check_files(complete)
        level = [] if features else _check_audio(complete, unlabeled)
        config = compose(base.config, args, weights, unlabeled, data, frame_level)
        options = base_model.check_builds(config.values, weights, trial)
        notes = [] if features else _length_notes(options)
        notes += [*level, *_advice(options)]
        move = base_model.renaming([(str(staging), str(beside))])
        config = config._replace(values=experiment.relocate(config.values, move))
        for file in sorted(path for path in staging.rglob("*") if path.is_file()):
            entries = tables.read_scp(file)
            tables.write_lines(beside / file.relative_to(staging), entries)
    command = _training_command(args, exp_dir, base)
    source = str(args.asr_exp or args.archive or args.model_tag)
    with atomic_write(args.out) as stream:
        stream.write(render(config, source, command, criteria.available()))
    return [
        f"Base model: {judge_base(weights.source)}",
        *notes,
        *(f"Changed: {change}" for change in config.changes),
        *(f"Note: {note}" for note in config.notes),
        f"Wrote {args.out}; the line to edit is pl_criterion. Train by:",
        command,
    ]
