"""All that a training is at one moment: captured in a state, and restored from it.

It is saved at the end of an epoch, where ESPnet's `checkpoint.pth` holds the rest, at a
stop in the middle of one (SIGTERM), and for what the guard's back-off returns to.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from espnet2.train.reporter import SubReporter, to_reported_value

from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import load_state, save_atomically
from espnet_softpl.core.processes import rank_and_world
from espnet_softpl.training.resume.layout import (
    SAFE_GLOBALS,
    STATE_DIR,
    STATE_VERSION,
)

logger = logging.getLogger(__name__)

HEALTHY = "healthy"
INTERRUPTED = r"\d+batches"
START_AGAIN = (
    "start again in a new --output_dir (--init_param takes the models that are there)"
)
ADVICE = (
    f"{START_AGAIN.capitalize()}, or put the options and the number of processes back "
    "as they were."
)
OF_ANOTHER_VERSION = (
    f"Another version of espnet_softpl wrote it: go on with that one, or {START_AGAIN}."
)

# The parts of a state beside the engine's own and `reporter`; an epoch's end has none.
BACK_OFF = ("model", "optimizers")
INTERRUPTION = ("model", "optimizers", "schedulers", "scaler")


@dataclasses.dataclass
class Training:
    """What ESPnet's trainer holds in an epoch."""

    model: torch.nn.Module  # A `SoftPLModel`, not wrapped for distribution.
    output_dir: Path
    epoch: int  # Counted from 1.
    optimizers: Sequence[torch.optim.Optimizer] = ()
    schedulers: Sequence[Any] = ()  # One per optimizer, or None.
    scaler: Any = None  # Of mixed precision.
    reporter: SubReporter | None = None  # Of the epoch.

    def reported(self, name: str, count: int = 0) -> list[float]:
        """Return the latest values of a statistic, at most `count`; of 0, all."""
        return [float(one.value) for one in self.reporter.stats.get(name, ())[-count:]]


def path_of(output_dir: Path, epoch: int, kind: str = "") -> Path:
    """Name this process's file of an epoch: of its end, `{n}batches` or `healthy`."""
    name = f"{epoch}epoch.{kind}{'.' if kind else ''}rank{rank_and_world()[0]}.pth"
    return output_dir / STATE_DIR / name


def saved_epochs(
    output_dir: Path, kind: str = "", rank: int | str = r"\d+"
) -> Iterator[tuple[int, str, Path]]:
    """Yield epoch, kind and file of the snapshots of which kind and rank match."""
    dotted = rf"\.({kind})" if kind else "()"
    pattern = re.compile(rf"(\d+)epoch{dotted}\.rank{rank}\.pth")
    for path in sorted((output_dir / STATE_DIR).glob("*epoch.*.pth")):
        if name := pattern.fullmatch(path.name):
            yield int(name[1]), name[2], path


def save(
    training: Training,
    parts: Sequence[str] = (),
    kind: str = "",
    cache: bool = True,
    **more: Any,
) -> Path:
    """Save the engine, with or without the labels in the cache, and some parts.

    The file, which is returned, is whole or not there; see `path_of`.
    """
    states = {
        "model": lambda: training.model.state_dict(),
        "optimizers": lambda: [part.state_dict() for part in training.optimizers],
        "schedulers": lambda: [s and s.state_dict() for s in training.schedulers],
        "scaler": lambda: training.scaler and training.scaler.state_dict(),
    }
    state = {
        "version": STATE_VERSION,
        "epoch": training.epoch,
        "world_size": rank_and_world()[1],
        **training.model.pl.state_dict(training.model, cache=cache),
        **{part: states[part]() for part in parts},
        **more,
    }
    path = path_of(training.output_dir, training.epoch, kind)
    save_atomically(state, path)
    return path


def load(training: Training, kind: str = "", back_off: bool = False) -> dict[str, Any]:
    """Restore what a snapshot of a kind holds, and return it.

    Its `random` is left to be restored when the next mini-batch is handed out.
    UserError if the file is missing, or of another version, number of processes or
    other settings.
    """
    path = path_of(training.output_dir, training.epoch, kind)
    if not path.exists():
        raise UserError(
            f"cannot resume: {path} is missing, so the teacher of epoch "
            f"{training.epoch} is not known. {ADVICE}"
        )
    try:
        # ESPnet's piecewiselinearwarmuplr makes learning rates of numpy.
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            state = load_state(path)
    except UserError as error:
        raise UserError(f"cannot resume: {error}. {ADVICE}") from error
    known = state if isinstance(state, dict) else {}
    for key, wanted, advice in (
        ("version", STATE_VERSION, OF_ANOTHER_VERSION),
        ("epoch", training.epoch, ADVICE),
        ("world_size", rank_and_world()[1], ADVICE),
    ):
        if known.get(key) != wanted:
            raise UserError(
                f"cannot resume: {path} has {key} {known.get(key)!r}, this run needs "
                f"{wanted!r}. {advice}"
            )
    _restore_parts(training, state, back_off)
    if "reporter" in state:
        restore_reporter(training.reporter, state["reporter"])
    try:
        training.model.pl.load_state_dict(state, training.model, back_off=back_off)
    except ValueError as error:
        raise UserError(f"cannot resume from {path}: {error}. {ADVICE}") from error
    return state


def _restore_parts(training: Training, state: dict[str, Any], back_off: bool) -> None:
    """Restore the parts of `BACK_OFF` and `INTERRUPTION` that a state has."""
    if "model" in state:
        training.model.load_state_dict(state["model"])
        for part, saved in zip(training.optimizers, state["optimizers"], strict=True):
            if back_off:  # Learning rates are of the schedule, which goes on.
                saved["param_groups"] = part.state_dict()["param_groups"]
            part.load_state_dict(saved)
    for scheduler, saved in zip(training.schedulers, state.get("schedulers", ())):
        if scheduler is not None:
            scheduler.load_state_dict(saved)
    # The run may have been without one (`pl_allow_changed_resume`).
    if training.scaler is not None and state.get("scaler") is not None:
        training.scaler.load_state_dict(state["scaler"])


def save_epoch_end(training: Training) -> None:
    """Save the state of an epoch's end, and forget all but the epoch before it.

    ESPnet writes `checkpoint.pth` after this: whichever of the two epochs that file
    holds when a run is killed, its snapshot is there.
    """
    output_dir, epoch, engine = training.output_dir, training.epoch, training.model.pl
    rank, _ = rank_and_world()
    if engine.samples is not None:
        engine.samples.write(output_dir, epoch, rank)
    save(training)
    # Interruptions first: they name files of the cache that nothing else may need.
    for old, _, path in saved_epochs(output_dir, INTERRUPTED, rank):
        if old <= epoch:
            path.unlink()
    ends = []
    for old, _, path in saved_epochs(output_dir, rank=rank):
        if old < epoch - 1:
            path.unlink()
        elif engine.cache is not None:
            ends.append(load_state(path, mmap=True)["cache"])
    if engine.cache is not None:
        engine.cache.forget_files(ends)


def save_healthy(training: Training) -> None:
    """Save what a back-off returns to, and forget all but the snapshot before it.

    A back-off throws the labels in the cache away, so they are left out.
    """
    engine = training.model.pl
    before, engine.healthy_epoch = engine.healthy_epoch, training.epoch
    save(training, BACK_OFF, HEALTHY, cache=False)
    rank, _ = rank_and_world()
    for epoch, _, path in saved_epochs(training.output_dir, HEALTHY, rank):
        if epoch not in (before, training.epoch):
            path.unlink()


def save_interruption(
    training: Training, done: int, valid: bool, state: dict[str, Any]
) -> None:
    """Save all that a run needs to go on after the `done` first mini-batches.

    `valid` says whether any of them changed the model; `state` is the `random_state`
    before the next one was read.
    """
    more = dict(valid=valid, random=plain_random_state(state))
    more["reporter"] = reporter_state(training.reporter, done)
    path = save(training, INTERRUPTION, f"{done}batches", **more)
    logger.warning(
        "Stopped by a signal: epoch %d is saved after %d mini-batches in %s; resume "
        "with --resume true",
        training.epoch,
        done,
        path,
    )


def find_interruption(output_dir: Path, epoch: int) -> int | None:
    """Return after how many mini-batches an epoch was interrupted; None if it was not.

    Nor if a process did not live to save its part: all then begin the epoch anew.
    """
    counts = [
        {
            int(kind.removesuffix("batches"))
            for saved, kind, _ in saved_epochs(output_dir, INTERRUPTED, rank)
            if saved == epoch
        }
        for rank in range(rank_and_world()[1])
    ]
    return max(set.intersection(*counts), default=None)


def random_state() -> dict[str, Any]:
    """Return the state of every generator that ESPnet seeds and this process uses.

    As they give it, for it is asked for at every update.
    """
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    numpy, python = np.random.get_state(), random.getstate()
    return dict(torch=torch.get_rng_state(), cuda=cuda, numpy=numpy, python=python)


def plain_random_state(state: dict[str, Any]) -> dict[str, Any]:
    """Turn what `random_state` returned into tensors and plain values."""
    name, keys, *rest = state["numpy"]
    version, numbers, gauss = state["python"]
    return {
        **state,
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": [version, list(numbers), gauss],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `plain_random_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        # Of earlier versions one of each GPU, and now there may be fewer.
        number = torch.cuda.current_device() % len(state["cuda"])
        torch.cuda.set_rng_state(state["cuda"][number])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def reporter_state(reporter: SubReporter, done: int) -> dict[str, Any]:
    """Return what ESPnet's reporter holds of the `done` first mini-batches.

    A further one may have been fetched, and timed, that is not trained on any more.
    """

    def plain(reported: Any) -> list[Any]:
        numbers = [reported.value, getattr(reported, "weight", None)]
        return [n.item() if isinstance(n, np.generic) else n for n in numbers]

    return {
        "stats": {k: [*map(plain, v[:done])] for k, v in reporter.stats.items()},
        "count": done,
        "total_count": reporter.total_count - (reporter.count - done),
    }


def restore_reporter(reporter: SubReporter, state: dict[str, Any]) -> None:
    """Restore what `reporter_state` returned."""
    for key, values in state["stats"].items():
        reporter.stats[key] = [to_reported_value(*value) for value in values]
    reporter.count = state["count"]
    reporter.total_count = state["total_count"]
