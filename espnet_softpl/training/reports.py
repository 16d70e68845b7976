"""What is reported: the statistics of a step, in one go, and a line about an epoch."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from espnet2.torch_utils.recursive_op import recursive_average
from espnet2.train import trainer
from espnet2.train.reporter import SubReporter, aggregate
from humanfriendly import format_timespan
from torch import Tensor
from tqdm import tqdm

from espnet_softpl.core.modules import read_values
from espnet_softpl.core.processes import from_all, rank_and_world
from espnet_softpl.monitors import statistics
from espnet_softpl.monitors.guard import MONITORS, Guard
from espnet_softpl.training.engine import PseudoLabeling
from espnet_softpl.training.hooks import replaced


def average(
    stats: dict[str, Tensor], weight: Tensor, distributed: bool = False
) -> tuple[dict[str, Tensor], Tensor]:
    """Average statistics, (n,) each, as `recursive_average` does, in one exchange.

    Of a statistic that is not known (NaN) in some processes it takes the others' mean
    in their place; amounts of each process are summed. All processes must call with the
    same names in the same order.
    """
    if not distributed:
        return recursive_average(stats, weight, distributed)
    rows = torch.stack([*stats.values(), torch.ones_like(weight, dtype=torch.float)])
    row = (rows * weight.to(rows.dtype)).sum(-1)  # The last is the weight itself.
    gathered = [torch.empty_like(row) for _ in range(rank_and_world()[1])]
    dist.all_gather(gathered, row)
    gathered = torch.stack(gathered)
    total = gathered[:, -1].sum()
    averages = gathered[:, :-1].nanmean(0) * len(gathered) / total
    merged = dict(zip(stats, averages))
    if (name := statistics.KEPT_HOURS.name) in merged:
        of_each = gathered[:, list(stats).index(name)] / gathered[:, -1]
        merged[name] = of_each.sum()
    return merged, total.to(weight.dtype)


@contextlib.contextmanager
def at_once(reporter: SubReporter) -> Iterator[None]:
    """Let ESPnet's trainer exchange, and a reporter read, all of a step at once.

    Else each statistic is gathered by itself and read by itself, with the weight every
    time. The numbers are the same.
    """
    register = reporter.register

    @functools.wraps(register)
    def register_read(stats: dict[str, Any], weight: Any = None) -> None:
        numbers = read_values({"": weight, **stats})
        weight = numbers.pop("")
        register(numbers, weight)

    with (
        replaced(reporter, "register", register_read),
        replaced(trainer, "recursive_average", average),
    ):
        yield


def progress(batches: Iterable[Any], epoch: int) -> tqdm:
    """Show the mini-batches of an epoch as they go by, if there is a terminal."""
    hidden = rank_and_world()[0] > 0 or None  # None: tqdm asks whether it is one.
    return tqdm(batches, f"Epoch {epoch}", unit="batch", leave=False, disable=hidden)


@contextlib.contextmanager
def logging_above(bar: tqdm) -> Iterator[None]:
    """Write lines of the log above a bar that is shown; they are those of before.

    Handlers keep level, filters and form, unlike those of `logging_redirect_tqdm`.
    """
    with contextlib.ExitStack() as stack:
        for handler in () if bar.disable else logging.root.handlers:
            if getattr(handler, "stream", None) in (sys.stdout, sys.stderr):
                emit = functools.partial(_emit_above, handler.emit, handler.stream)
                stack.enter_context(replaced(handler, "emit", emit))
        yield


def _emit_above(emit: Callable, stream: Any, record: logging.LogRecord) -> None:
    with tqdm.external_write_mode(stream):
        emit(record)


class EpochLine:
    """Says how an epoch went, and when the run, to `max_epoch`, will end.

    The time to the end is estimated from whole epochs of this process, without what
    comes before the first of them.
    """

    def __init__(self, max_epoch: int) -> None:
        self._max_epoch = max_epoch
        self._seconds: list[float] = []  # What each epoch took.
        self._words: list[str] = []

    def begin(self, engine: PseudoLabeling) -> None:
        """An epoch begins."""
        self._start, self._hours = time.perf_counter(), engine.kept_hours

    def after_training(self, reporter: SubReporter, engine: PseudoLabeling) -> None:
        """The mini-batches of the epoch were trained on."""
        cer, kept = (
            _mean(reporter, each.name) for each in (statistics.CER, statistics.KEPT)
        )
        self._words = [f"CER of the labels {cer:.1%}"] if not math.isnan(cer) else []
        if not math.isnan(kept):
            self._words.append(f"{kept:.0%} of the labels used")
        # On a GPU this waits for the last mini-batch.
        labeling = engine.stopwatch.read()
        seconds = time.perf_counter() - self._start
        if labeling > 0:
            self._words.append(f"labeling took {labeling / seconds:.0%} of the time")
        hours = sum(from_all(engine.kept_hours - self._hours))
        if hours > 0:  # Not so for features, whose hours are not known.
            self._words.append(
                f"learned from {60 * hours:.1f} unlabeled minutes "
                f"({3600 * hours / seconds:.1f} times real time)"
            )

    def after_validation(self, reporter: SubReporter, engine: PseudoLabeling) -> str:
        """Return the line."""
        cer, epoch = _mean(reporter, "cer_ctc"), reporter.get_epoch()
        words = [f"dev CER {cer:.1%}"] if not math.isnan(cer) else []
        words += self._words
        if engine.guard is not None and (margin := closest(engine.guard)):
            words.append("guard: {} has {:.0%} of its margin left".format(*margin))
        if torch.cuda.is_available():
            gigabytes = torch.cuda.max_memory_allocated() / 1e9
            words.append(f"{gigabytes:.1f} GB of GPU memory at most")
        self._seconds.append(time.perf_counter() - self._start)
        mean = sum(self._seconds) / len(self._seconds)
        if left := max(self._max_epoch - epoch, 0):
            words.append(f"{format_timespan(left * mean, max_units=2)} to go")
        return f"Epoch {epoch} of {self._max_epoch}: {'; '.join(words)}"


def closest(guard: Guard) -> tuple[str, float] | None:
    """Find the monitor that is closest to a limit of the guard, None if none is known.

    With it comes what is left of the way from the base model's level to the limit: 1 at
    that level, 0 at the limit or beyond.
    """
    margins = {}
    for name in MONITORS:
        level, reference = guard.level(name), guard.reference(name)
        if math.isnan(level) or math.isnan(reference):
            continue
        if math.isinf(level):
            return name, 0.0
        low, high = guard.bounds(name)
        limit = low if level < reference else high
        if math.isfinite(limit) and limit != reference:
            margins[name] = max((limit - level) / (limit - reference), 0.0)
    return min(margins.items(), key=lambda item: item[1]) if margins else None


def _mean(reporter: SubReporter, name: str) -> float:
    """Return the epoch's mean as ESPnet will report it; NaN if no value is known."""
    values = reporter.stats.get(name, [])
    known = [value for value in values if math.isfinite(value.value)]
    return float(aggregate(known)) if known else math.nan
