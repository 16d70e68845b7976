"""Values of tensors, read in one go: a host that reads from a GPU waits for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def read_values(values: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Turn tensors of one element, of any shape and type, into numbers.

    Numbers stay as they are, and so does the order.
    """
    waiting = {k: v.detach() for k, v in values.items() if isinstance(v, Tensor)}
    if not waiting:
        return dict(values)
    row = torch.cat([value.reshape(1) for value in waiting.values()])
    return {**values, **dict(zip(waiting, row.tolist()))}


def read_columns(**columns: Tensor) -> dict[str, list[int]]:
    """Turn tensors of one shape, (B,), bool or integer, into lists, by name."""
    return dict(zip(columns, torch.stack(list(columns.values())).tolist()))
