"""What the guard's alarms do to a training: report, stop, or go back and go on.

The guard sees the statistics that ESPnet has already averaged over all processes, after
each optimizer step: every process decides the same, without a further exchange.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from espnet_softpl.core.errors import CollapseError
from espnet_softpl.core.files import load_state, save_atomically
from espnet_softpl.core.processes import rank_and_world
from espnet_softpl.monitors.diagnosis import explain, write_report
from espnet_softpl.monitors.guard import MONITORS, Alarm
from espnet_softpl.training.resume.layout import STATE_DIR

logger = logging.getLogger(__name__)


REPORT_DIR = "pl_collapse"


class WatchedIterator:
    """Mini-batches, with a call after the training step on each of them.

    Args:
        batches: The mini-batches.
        after_step: Called when the next mini-batch, or the end, is asked for.
    """

    def __init__(self, batches: Iterable[Any], after_step: Callable[[], None]) -> None:
        self._batches = batches
        self._after_step = after_step

    def __len__(self) -> int:
        """Return the number of mini-batches."""
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        """Yield the mini-batches."""
        for batch in self._batches:
            yield batch
            self._after_step()


def latest_monitors(reporter: Any) -> dict[str, float]:
    """Read the monitors of the latest step from ESPnet's reporter.

    Args:
        reporter: The reporter of the running epoch.

    Returns:
        Values by name; NaN after a labeled batch.
    """
    values = {}
    for name in MONITORS:
        reported = reporter.stats.get(name)
        values[name] = float(reported[-1].value) if reported else math.nan
    return values


class Watch:
    """Does what the guard asks for, around the steps of one epoch.

    Args:
        model: A `SoftPLModel` with a guard, not wrapped for distribution.
        optimizers: The optimizers of the training.
        reporter: ESPnet's reporter of the epoch.
        output_dir: The experiment directory.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        reporter: Any,
        output_dir: Path,
    ) -> None:
        self._model = model
        self._optimizers = optimizers
        self._reporter = reporter
        self._output_dir = output_dir

    def after_step(self) -> None:
        """Let the guard see the latest step, and act if it raises an alarm.

        Raises:
            CollapseError: The guard stops the training.
        """
        monitors = latest_monitors(self._reporter)
        if all(math.isnan(value) for value in monitors.values()):
            return
        guard = self._model.pl.guard
        alarm = guard.observe(self._reporter.get_total_count(), monitors)
        if alarm is None:
            return
        self._report(alarm)
        if guard.action == "warn":
            return
        if guard.action == "stop" or guard.exhausted:
            raise CollapseError(f"training is stopped: {explain(alarm)}")
        restore_healthy(self._model, self._optimizers, self._output_dir)
        guard.note_back_off()
        logger.warning(
            "Back-off %d of at most %d: the model is that of the end of epoch %d "
            "again, the unlabeled loss is multiplied by %g",
            guard.back_offs,
            guard.max_back_offs,
            self._model.pl.healthy_epoch,
            guard.weight_factor,
        )

    def _report(self, alarm: Alarm) -> None:
        logger.warning("%s", explain(alarm))
        if rank_and_world()[0] != 0:
            return
        ids, label = self._model.pl.last_batch
        where = write_report(
            self._output_dir / REPORT_DIR, alarm, self._model.pl.guard, label, ids
        )
        logger.warning("The batch and a plot of the monitors are in %s", where)


def healthy_path(output_dir: Path, epoch: int) -> Path:
    """Name this process's snapshot of a healthy epoch's end."""
    rank, _ = rank_and_world()
    return output_dir / STATE_DIR / f"{epoch}epoch.healthy.rank{rank}.pth"


def save_healthy(
    model: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    output_dir: Path,
    epoch: int,
) -> None:
    """Save what a back-off returns to, and forget all but the snapshot before it.

    Args:
        model: A `SoftPLModel`, not wrapped for distribution.
        optimizers: The optimizers of the training.
        output_dir: The experiment directory.
        epoch: The finished epoch; 0 for the model that training starts from.
    """
    before, model.pl.healthy_epoch = model.pl.healthy_epoch, epoch
    state = {
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        # A back-off throws the labels in the cache away.
        "engine": model.pl.state_dict(model, cache=False),
    }
    path = healthy_path(output_dir, epoch)
    save_atomically(state, path)
    keep = {path, healthy_path(output_dir, before)}
    pattern = path.name.replace(f"{epoch}epoch", "*epoch", 1)
    for old in set(path.parent.glob(pattern)) - keep:
        old.unlink()


def restore_healthy(
    model: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    output_dir: Path,
) -> None:
    """Return to the last healthy snapshot: weights, optimizers, teacher, averages.

    The learning-rate schedule, the data and the guard's memory go on.

    Args:
        model: A `SoftPLModel`, not wrapped for distribution.
        optimizers: The optimizers of the training.
        output_dir: The experiment directory.
    """
    state = load_state(healthy_path(output_dir, model.pl.healthy_epoch))
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    model.pl.load_state_dict(state["engine"], model, back_off=True)
