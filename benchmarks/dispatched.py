"""Count the operations that torch dispatches, and those that the host waits for."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# Operations whose result has a value or a shape that the host must know.
WAITING = {"_local_scalar_dense", "equal", "is_nonzero", "nonzero", "masked_select"}
WAITING |= {"bincount", "_unique", "_unique2", "unique_dim", "unique_consecutive"}
INDEXING = {"index", "index_put", "index_put_"}  # Waiting if an index is boolean.
METHODS = {"tolist", "cpu", "numpy"}  # On a CPU torch dispatches nothing for them.


class _Operations(TorchDispatchMode):
    def __init__(self, counts: collections.Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name.partition("::")[2]
        self._counts["operations"] += 1
        is_mask = name in INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8)
            for index in args[1]
        )
        self._counts["waits"] += name in WAITING or is_mask
        return func(*args, **(kwargs or {}))


class _Methods(TorchFunctionMode):
    def __init__(self, counts: collections.Counter[str]) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self._counts["waits"] += getattr(func, "__name__", "") in METHODS
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def counted() -> Iterator[collections.Counter[str]]:
    """Count what runs meanwhile.

    Yields:
        `operations` dispatched, and `waits`: those for which the host would wait on a
        GPU. It says the same on a CPU, from the kinds of operations.
    """
    counts: collections.Counter[str] = collections.Counter(operations=0, waits=0)
    with _Methods(counts), _Operations(counts):
        yield counts
