"""The statistics of a step, exchanged between processes and read in one go.

ESPnet's trainer gathers each statistic of each step by itself, and its reporter reads
each by itself, with the weight every time. The numbers are the same here.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from espnet2.torch_utils.recursive_op import recursive_average
from espnet2.train import trainer
from espnet2.train.reporter import SubReporter

from espnet_softpl.core.modules import read_values
from espnet_softpl.core.processes import rank_and_world


def average(
    stats: dict[str, torch.Tensor], weight: torch.Tensor, distributed: bool = False
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Average statistics as `recursive_average` does, in one exchange.

    Of a statistic that is not known (NaN) in some processes it takes the others' mean
    in their place.

    Args:
        stats: By name, (n,) each, the same names in the same order in every process.
        weight: Of each, (n,).
        distributed: Whether there are other processes; all of them must call.

    Returns:
        The averages by name, and the sum of all weights, scalars.
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
    return dict(zip(stats, averages)), total.to(weight.dtype)


@contextlib.contextmanager
def at_once(reporter: SubReporter) -> Iterator[None]:
    """Let ESPnet's trainer exchange, and a reporter read, all of a step at once."""
    register = reporter.register

    @functools.wraps(register)
    def register_read(stats: dict[str, Any], weight: Any = None) -> None:
        numbers = read_values({"": weight, **stats})
        weight = numbers.pop("")
        register(numbers, weight)

    reporter.register, trainer.recursive_average = register_read, average
    try:
        yield
    finally:
        del reporter.register
        trainer.recursive_average = recursive_average
