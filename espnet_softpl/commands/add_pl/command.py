"""From a trained ESPnet model to a configuration: the command `add_pl`, in order.

ESPnet itself takes seconds to import, and is imported when it is needed.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import tempfile
from pathlib import Path
from typing import Any

import torch

from espnet_softpl import criteria
from espnet_softpl.commands import experiment, packed
from espnet_softpl.commands.add_pl import config as add_pl_config
from espnet_softpl.commands.add_pl import data_dirs
from espnet_softpl.commands.add_pl import seed as add_pl_seed
from espnet_softpl.core.errors import UserError
from espnet_softpl.data import scan, tables


def check_options(args: argparse.Namespace, exp_dir: Path) -> None:
    """Refuse options that cannot work, before anything is read.

    Raises:
        UserError: A number out of its range, or something in the way.
    """
    for name, least in (("unlabeled_steps", 1), ("max_epoch", 1), ("ngpu", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} must be at least {least}, got {value}")
    if args.lr is not None and not 0.0 < args.lr < float("inf"):
        raise UserError(f"--lr must be a number above 0, got {args.lr}")
    if args.out.exists() and not args.overwrite:
        raise UserError(f"{args.out} exists; give another --out, or --overwrite")
    if (exp_dir / "checkpoint.pth").exists():
        raise UserError(
            f"{exp_dir} holds a training already, which the printed command would "
            f"resume; give another --exp_dir"
        )


def default_exp_dir(args: argparse.Namespace) -> Path:
    """Name the experiment to be trained, as asr.sh names it by its configuration."""
    parent = args.asr_exp.parent if args.asr_exp else Path("exp")
    return parent / f"asr_{args.out.stem}"


def read_seed(args: argparse.Namespace) -> experiment.Seed:
    """Read the seed from wherever it is."""
    if args.asr_exp:
        seed = experiment.from_experiment(args.asr_exp, args.init_param)
    else:
        root = args.archive or packed.fetch(args.model_tag, args.cache_dir)
        if not root.is_dir():
            target = args.unpack_dir or Path("exp") / root.name.partition(".")[0]
            packed.unpack(root, target)
            root = target
        seed = experiment.from_unpacked(root, args.init_param)
    moved = experiment.relocate(seed.config, add_pl_seed.mover(args.moved))
    return dataclasses.replace(seed, config=moved)


def given_data(
    args: argparse.Namespace, config: dict[str, Any], staging: Path
) -> dict[str, Any]:
    """Return the options of labeled data given anew, their lengths counted."""
    from espnet_softpl.commands.add_pl import dry_run

    data: dict[str, Any] = {}
    for part, directory in (("train", args.labeled), ("valid", args.valid)):
        if directory is not None:
            data |= data_dirs.labeled_options(
                directory,
                part,
                config.get("input_size") is not None,
                staging / part,
                dry_run.token_counter(config),
                len(config["token_list"]),
            )
    return data


def look_at_audio(config: dict[str, Any], unlabeled: data_dirs.Audio) -> None:
    """Refuse audio that the seed cannot take.

    Args:
        config: The seed's configuration, with data given anew.
        unlabeled: The unlabeled audio.

    Raises:
        UserError: With a file and what to do.
    """
    from espnet_softpl.training.lengths import sample_rate

    if config.get("input_size") is not None:
        return
    rate = sample_rate(argparse.Namespace(**config))
    data_dirs.check_format(unlabeled, rate, "--unlabeled")
    for part, option in add_pl_seed.DATA_OPTIONS.items():
        name = f"{part}_data_path_and_name_and_type"
        entries, kind = scan.speech_scp([tuple(s) for s in config[name]], name)
        path = next(spec[0] for spec in config[name] if spec[1] == "speech")
        audio = data_dirs.Audio(Path(path), kind, entries)
        data_dirs.check_readable(audio, f"{name} (or give {option})")
        data_dirs.check_format(audio, rate, name)


def length_notes(options: argparse.Namespace, features: bool) -> list[str]:
    """Say how much audio there is, and whether some of it is unusually long."""
    from espnet_softpl.commands.add_pl import dry_run
    from espnet_softpl.training import lengths

    if features:
        return []
    rate = lengths.sample_rate(options)
    seconds = dry_run.unlabeled_seconds(options, rate)
    total = sum(seconds)
    amount = f"{total / 3600:.1f} h" if total >= 3600 else f"{total / 60:.1f} min"
    notes = [
        f"Unlabeled audio: {len(seconds)} utterances, {amount}, the longest "
        f"{max(seconds):.1f} s"
    ]
    known = lengths.labeled_lengths(options)
    if known is not None:
        longest = max(known[1].values()) / rate
        if max(seconds) > 2 * longest:
            notes.append(
                f"The longest labeled utterance has {longest:.1f} s. Cut unlabeled "
                f"audio into utterances like those: memory grows with the length, and "
                f"the model knows no longer ones"
            )
    return notes


def training_command(args: argparse.Namespace, exp_dir: Path, had: int) -> str:
    """Return the command that trains, quoted for a shell."""
    ngpu = min(torch.cuda.device_count(), had) if args.ngpu is None else args.ngpu
    words = ["python", "-m", "espnet_softpl.bin.train", "--config", str(args.out)]
    words += ["--output_dir", str(exp_dir), "--ngpu", str(ngpu)]
    if ngpu > 1:
        words += ["--multiprocessing_distributed", "true"]
    return shlex.join([*words, "--resume", "true"])


def plan(
    args: argparse.Namespace, seed: experiment.Seed, staging: Path
) -> tuple[add_pl_config.PLConfig, list[str]]:
    """Compose the configuration and try it.

    Args:
        args: The command's options.
        seed: The seed.
        staging: An empty directory, for the files that the configuration needs.

    Returns:
        The configuration, with paths into `staging`, and notes about the data.

    Raises:
        UserError: Something cannot work.
    """
    try:
        frame_level = criteria.build(args.criterion).frame_level
    except ValueError as error:
        raise UserError(str(error)) from error
    add_pl_seed.check_model(seed.config, labeled_anew=args.labeled is not None)
    from espnet_softpl.commands.add_pl import dry_run

    features = seed.config.get("input_size") is not None
    unlabeled = data_dirs.merge_audio(args.unlabeled, features, staging / "unlabeled")
    data = given_data(args, seed.config, staging)
    complete = {**seed.config, **data}
    add_pl_seed.check_files(dataclasses.replace(seed, config=complete))
    look_at_audio(complete, unlabeled)
    wishes = add_pl_config.Wishes(
        init_param=str(seed.checkpoint),
        unlabeled=unlabeled.specs(),
        unlabeled_shape_file=unlabeled.shape_file and str(unlabeled.shape_file),
        criterion=args.criterion,
        frame_level=frame_level,
        teacher=args.teacher,
        unlabeled_steps=args.unlabeled_steps,
        lr=args.lr,
        max_epoch=args.max_epoch,
        data=data,
        batch_norm=dry_run.has_batch_norm(dry_run.load_state(seed.checkpoint)),
    )
    config = add_pl_config.compose(seed.config, dry_run.get_defaults(), wishes)
    with tempfile.TemporaryDirectory() as directory:
        options = dry_run.check(config.values, Path(directory))
        return config, length_notes(options, features)


def run(args: argparse.Namespace) -> list[str]:
    """Do it.

    Args:
        args: The command's options.

    Returns:
        Lines to print, the command to run last.

    Raises:
        UserError: Something cannot work; nothing is written then.
    """
    exp_dir = args.exp_dir or default_exp_dir(args)
    check_options(args, exp_dir)
    seed = read_seed(args)
    had = int(seed.config.get("dist_world_size") or seed.config.get("ngpu") or 0)
    command = training_command(args, exp_dir, had)
    with tempfile.TemporaryDirectory() as directory:
        staging = Path(directory)
        config, notes = plan(args, seed, staging)
        # What building the model needs beside the configuration lies beside the run.
        beside = exp_dir.with_name(f"{exp_dir.name}_data")
        rename = add_pl_seed.mover([(str(staging), str(beside))])
        config = dataclasses.replace(
            config, values=experiment.relocate(config.values, rename)
        )
        for file in sorted(path for path in staging.rglob("*") if path.is_file()):
            entries = tables.read_scp(file)
            tables.write_lines(beside / file.relative_to(staging), entries)
    source = str(args.asr_exp or args.archive or args.model_tag)
    text = add_pl_config.render(config, source, command, criteria.available())
    args.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.out.with_name(f".{args.out.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, args.out)
    return [
        f"Seed: {seed.checkpoint}",
        *notes,
        *(f"Changed: {change}" for change in config.changes),
        *(f"Note: {note}" for note in config.notes),
        f"Wrote {args.out}; the line to edit is pl_criterion. Train by:",
        command,
    ]
