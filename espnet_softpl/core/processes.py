"""What the processes of a distributed run agree on; one process agrees with itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from espnet_softpl.core.errors import UserError


def rank_and_world() -> tuple[int, int]:
    """Return this process's rank and the number of processes."""
    if not dist.is_initialized():
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def any_process(flag: bool) -> bool:
    """Tell whether a flag is set in any process; all of them must ask."""
    if not dist.is_initialized():
        return flag
    # The backend of GPUs takes no tensors of the CPU.
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    count = torch.tensor(int(flag), device=device)
    dist.all_reduce(count)
    return bool(count > 0)


def from_all(value: Any) -> list[Any]:
    """Return a plain value of every process, by rank; all of them must ask."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def on_first_process(action: Callable[[], None]) -> None:
    """Let the first process act and others wait; all raise its UserError."""
    message = None
    if rank_and_world()[0] == 0:
        try:
            action()
        except UserError as error:
            message = str(error)
    if (message := from_all(message)[0]) is not None:
        raise UserError(message)


def wait_for_all() -> None:
    """Return when every process has come here."""
    if dist.is_initialized():
        dist.barrier()
