"""The state of pseudo-labeling beside ESPnet's checkpoint of an epoch."""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch

from espnet_softpl.cache import CACHE_DIR
from espnet_softpl.core import files
from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import save_atomically
from espnet_softpl.core.processes import (
    rank_and_world,
)
from espnet_softpl.monitors.samples import SAMPLES_DIR
from espnet_softpl.training.resume import checkpoints, interruption
from espnet_softpl.training.resume.layout import (
    ADVICE,
    STATE_DIR,
    STATE_VERSION,
    TEACHER,
    check_state,
)

logger = logging.getLogger(__name__)


def state_path(output_dir: Path, epoch: int, rank: int) -> Path:
    """Name the side state of one epoch and process.

    Args:
        output_dir: The experiment directory.
        epoch: The finished epoch.
        rank: The process.

    Returns:
        The file beside ESPnet's `checkpoint.pth` that holds what it does not.
    """
    return output_dir / STATE_DIR / f"{epoch}epoch.rank{rank}.pth"


def save_state(model: torch.nn.Module, output_dir: Path, epoch: int) -> None:
    """Save the engine's state of one epoch, and forget all but the epoch before it.

    ESPnet writes `checkpoint.pth` after this: whichever of the two epochs that file
    holds when a run is killed, its side state is there.

    Args:
        model: A `SoftPLModel`, not wrapped for distribution.
        output_dir: The experiment directory.
        epoch: The finished epoch.
    """
    rank, world_size = rank_and_world()
    if model.pl.samples is not None:
        model.pl.samples.write(output_dir, epoch, rank)
    state = {
        "version": STATE_VERSION,
        "epoch": epoch,
        "world_size": world_size,
        **model.pl.state_dict(model),
    }
    save_atomically(state, state_path(output_dir, epoch, rank))
    before = state_path(output_dir, epoch - 1, rank)
    if model.pl.cache is not None:
        resumable = [state["cache"]]
        if before.exists():
            resumable.append(files.load_state(before, mmap=True)["cache"])
        model.pl.cache.forget_files(resumable)
    interruption.forget_interruptions(output_dir, epoch)
    for path in (output_dir / STATE_DIR).glob(f"*epoch.rank{rank}.pth"):
        saved = re.fullmatch(r"(\d+)epoch\.rank\d+\.pth", path.name)
        if saved and int(saved[1]) < epoch - 1:
            path.unlink()


def load_state(model: torch.nn.Module, output_dir: Path, epoch: int) -> None:
    """Restore the engine's state of one epoch.

    Args:
        model: A `SoftPLModel`, not wrapped for distribution.
        output_dir: The experiment directory.
        epoch: The epoch that `checkpoint.pth` holds.

    Raises:
        UserError: The state is missing, or from another epoch, version or number
            of processes.
    """
    rank, world_size = rank_and_world()
    path = state_path(output_dir, epoch, rank)
    if not path.exists():
        raise UserError(
            f"cannot resume: {path} is missing, so the teacher of epoch {epoch} is "
            f"not known. {ADVICE}"
        )
    state = files.load_state(path)
    check_state(state, path, epoch=epoch, world_size=world_size)
    try:
        model.pl.load_state_dict(state, model)
    except ValueError as error:
        raise UserError(f"cannot resume from {path}: {error}. {ADVICE}") from error


def begin_directory(output_dir: Path, options: Any) -> None:
    """Make an experiment directory fit for a run; the first process does it for all.

    Args:
        output_dir: The experiment directory.
        options: ESPnet's options. With `resume`, what a kill may have cut off is
            repaired. Without, what an earlier run could be resumed from is put into
            `previous_run/`, for this one is going to write its own.

    Raises:
        UserError: What is there cannot be resumed from.
    """
    if options.resume:
        checkpoints.repair(
            output_dir,
            options.best_model_criterion,
            options.keep_nbest_models,
            options.nbest_averaging_interval,
        )
        return
    names = (STATE_DIR, CACHE_DIR, SAMPLES_DIR, checkpoints.CHECKPOINT, TEACHER)
    found = [output_dir / name for name in names if (output_dir / name).exists()]
    if not found:
        return
    previous = output_dir / "previous_run"
    logger.warning("An earlier run is not resumed; its state is now in %s", previous)
    shutil.rmtree(previous, ignore_errors=True)
    previous.mkdir()
    for path in found:
        os.replace(path, previous / path.name)
