"""Stop in the middle of one of ESPnet's epochs when told to, and go on from there.

ESPnet saves at the end of an epoch. A scheduler that takes the machine back sends
SIGTERM first: the training then stops at the next mini-batch, saves all that it has,
and ends; resumed, it goes on with the mini-batch after that one, bit for bit as if
nothing had happened.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import multiprocessing
import random
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.train.reporter import to_reported_value

from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import load_state, save_atomically
from espnet_softpl.core.processes import rank_and_world
from espnet_softpl.training.resume.layout import (
    ADVICE,
    STATE_DIR,
    STATE_VERSION,
    check_state,
)

logger = logging.getLogger(__name__)


LOADER_SECONDS = 20


EXIT_STATUS = 128 + signal.SIGTERM  # What a shell reports of a process so ended.


class Interrupted(SystemExit):
    """The training was told to stop, has saved, and ends with status 143."""

    def __init__(self) -> None:
        super().__init__(EXIT_STATUS)


class Flag:
    """Set when the process has been told to stop."""

    def __init__(self) -> None:
        self.is_set = False

    def _note(self, number: int, frame: Any) -> None:
        self.is_set = True

    @contextlib.contextmanager
    def listening(self) -> Iterator[Flag]:
        """Take SIGTERM as the word to stop, and give it back afterwards."""
        self.is_set = False
        before = signal.signal(signal.SIGTERM, self._note)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def terminating_children() -> Iterator[None]:
    """Hand SIGTERM on to the processes that this one has started and waits for.

    ESPnet starts one process per GPU, and the one that a user knows the number of only
    waits for them. It ends with their status.
    """

    def hand_on(number: int, frame: Any) -> None:
        children = multiprocessing.active_children()
        for child in children:
            child.terminate()
        if not children:  # Nothing has begun: end as ever.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        yield
    except torch.multiprocessing.ProcessExitedException as error:
        logger.error("%s", error)
        # A process that a signal ended has a negative status.
        status = error.exit_code
        raise SystemExit(status if status >= 0 else 128 - status) from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _last(init: Any, worker: int) -> None:
    """Let a loader's process outlive SIGTERM for a while, for the training needs it.

    Schedulers send the signal to every process of a job, and may do so twice. The
    training stops a mini-batch later and ends its loaders itself; what is left then
    ends by itself.
    """

    def first(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.alarm(LOADER_SECONDS)

    signal.signal(signal.SIGTERM, first)
    if init is not None:
        init(worker)


class LastingFactory(AbsIterFactory):
    """Another factory's mini-batches, from loaders that outlive SIGTERM for a while.

    Args:
        factory: The factory.
    """

    def __init__(self, factory: AbsIterFactory) -> None:
        self.factory = factory

    def build_iter(self, epoch: int, shuffle: bool | None = None) -> Any:
        """Build the iterator of one epoch; see the factory."""
        batches = self.factory.build_iter(epoch, shuffle)
        for loader in getattr(batches, "loaders", [batches]):
            loader.worker_init_fn = functools.partial(_last, loader.worker_init_fn)
        return batches


class StoppableIterator:
    """Mini-batches that end early when a flag is set.

    Args:
        batches: The mini-batches of an epoch.
        flag: When set, no further mini-batch is handed out.
        accum_grad: Mini-batches of one optimizer step; it stops between two steps.
        skip: Mini-batches that were trained on before; they are read, for whatever the
            loader draws at random must be drawn, but not handed out.
        begin: Called before the first mini-batch is handed out.

    Attributes:
        done: Mini-batches of the epoch that have been trained on.
    """

    def __init__(
        self,
        batches: Any,
        flag: Flag,
        accum_grad: int = 1,
        skip: int = 0,
        begin: Any = None,
    ) -> None:
        self._batches = batches
        self._flag = flag
        self._accum_grad = accum_grad
        self._skip = skip
        self._begin = begin
        self.done = skip

    def __len__(self) -> int:
        """Return the number of mini-batches of the whole epoch."""
        return len(self._batches)

    @property
    def complete(self) -> bool:
        """Whether every mini-batch has been trained on."""
        return self.done == len(self)

    def __iter__(self) -> Iterator[Any]:
        """Yield the mini-batches."""
        batches = iter(self._batches)
        for _ in range(self._skip):
            next(batches)
        if self._begin is not None:
            self._begin()
        for batch in batches:
            if self._flag.is_set and self.done % self._accum_grad == 0:
                return
            yield batch
            self.done += 1


@dataclasses.dataclass
class Training:
    """What ESPnet's trainer holds in an epoch, and what a file must bring back.

    Attributes:
        model: A `SoftPLModel`, not wrapped for distribution.
        optimizers: Its optimizers.
        schedulers: Their schedulers, or None.
        scaler: Of mixed precision, or None.
        reporter: ESPnet's reporter of the epoch.
    """

    model: torch.nn.Module
    optimizers: Sequence[torch.optim.Optimizer]
    schedulers: Sequence[Any]
    scaler: Any
    reporter: Any


def random_state() -> dict[str, Any]:
    """Return the state of every generator that ESPnet seeds."""
    name, keys, *rest = np.random.get_state()
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": [version, list(numbers), gauss],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def interruption_path(output_dir: Path, epoch: int, done: int, rank: int) -> Path:
    """Name the file of one process that stopped in an epoch."""
    return output_dir / STATE_DIR / f"{epoch}epoch.{done}batches.rank{rank}.pth"


def find_interruption(output_dir: Path, epoch: int) -> int | None:
    """Find where an epoch was interrupted.

    Args:
        output_dir: The experiment directory.
        epoch: The epoch that is about to be trained.

    Returns:
        The mini-batches that had been trained on; None where the epoch was not
        interrupted, or where a process did not live to save its part: all of them
        then begin the epoch anew.
    """
    _, world = rank_and_world()
    ranks: dict[int, set[int]] = {}
    for path in (output_dir / STATE_DIR).glob(f"{epoch}epoch.*batches.rank*.pth"):
        done, rank = re.findall(r"\.(\d+)batches\.rank(\d+)\.", path.name)[0]
        ranks.setdefault(int(done), set()).add(int(rank))
    whole = [done for done, found in ranks.items() if found >= set(range(world))]
    return max(whole, default=None)


def forget_interruptions(output_dir: Path, last_epoch: int) -> None:
    """Delete this process's files of epochs that are finished."""
    rank, _ = rank_and_world()
    for path in (output_dir / STATE_DIR).glob(f"*epoch.*batches.rank{rank}.pth"):
        if int(path.name.partition("epoch")[0]) <= last_epoch:
            path.unlink()


def save_interruption(
    training: Training, output_dir: Path, epoch: int, done: int, valid: bool
) -> None:
    """Save all that a run needs to go on in the middle of an epoch.

    Args:
        training: What to save.
        output_dir: The experiment directory.
        epoch: The epoch.
        done: Its mini-batches that have been trained on.
        valid: Whether any of them changed the model.
    """
    rank, world = rank_and_world()
    reporter = training.reporter
    # A mini-batch may have been fetched, and timed, that is not trained on any more.
    stats = {
        key: [_plain(value) for value in values[:done]]
        for key, values in reporter.stats.items()
    }
    state = {
        "version": STATE_VERSION,
        "epoch": epoch,
        "world_size": world,
        "valid": valid,
        "model": training.model.state_dict(),
        "optimizers": [part.state_dict() for part in training.optimizers],
        "schedulers": [s and s.state_dict() for s in training.schedulers],
        "scaler": training.scaler and training.scaler.state_dict(),
        "engine": training.model.pl.state_dict(training.model),
        "random": random_state(),
        "stats": stats,
        "total_count": reporter.total_count - (reporter.count - done),
    }
    path = interruption_path(output_dir, epoch, done, rank)
    save_atomically(state, path)
    logger.warning(
        "Told to stop: epoch %d is saved after %d mini-batches in %s; resume with "
        "--resume true",
        epoch,
        done,
        path,
    )


def load_interruption(
    training: Training, output_dir: Path, epoch: int, done: int
) -> dict[str, Any]:
    """Bring back what `save_interruption` saved, but for the random state.

    Args:
        training: What to restore.
        output_dir: The experiment directory.
        epoch: The epoch.
        done: Its mini-batches that have been trained on.

    Returns:
        The saved state, whose `random` is to be restored when the next mini-batch is
        handed out, and whose `valid` says whether the model was changed.

    Raises:
        UserError: It belongs to another number of processes or other settings.
    """
    rank, world = rank_and_world()
    path = interruption_path(output_dir, epoch, done, rank)
    state = load_state(path)
    check_state(state, path, epoch=epoch, world_size=world)
    training.model.load_state_dict(state["model"])
    for optimizer, saved in zip(training.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    for scheduler, saved in zip(training.schedulers, state["schedulers"], strict=True):
        if scheduler is not None:
            scheduler.load_state_dict(saved)
    if training.scaler is not None:
        training.scaler.load_state_dict(state["scaler"])
    try:
        training.model.pl.load_state_dict(state["engine"], training.model)
    except ValueError as error:
        raise UserError(f"cannot resume from {path}: {error}. {ADVICE}") from error
    reporter = training.reporter
    for key, values in state["stats"].items():
        reporter.stats[key] = [to_reported_value(*value) for value in values]
    reporter.count = done
    reporter.total_count = state["total_count"]
    logger.info("Epoch %d goes on after %d mini-batches", epoch, done)
    return state


def _plain(reported: Any) -> list[Any]:
    """Return the value and the weight of one reported value, as plain numbers."""
    numbers = [reported.value, getattr(reported, "weight", None)]
    return [n.item() if isinstance(n, np.generic) else n for n in numbers]
