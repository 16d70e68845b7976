"""How long something takes, also on a GPU, which works on its own."""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Iterator

import torch


class Stopwatch:
    """Sums the time that blocks of code take, without waiting for a GPU.

    On a GPU, events in its queue mark where a block begins and ends. They are read once
    the GPU has passed them.

    Example:
        >>> watch = Stopwatch()
        >>> with watch.running(torch.device("cpu")):
        ...     labels = make()
        >>> watch.read()
        0.25
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        # Begin and end of blocks that the GPU may not have passed, oldest first.
        self._events: collections.deque[tuple[torch.cuda.Event, torch.cuda.Event]] = (
            collections.deque()
        )

    @contextlib.contextmanager
    def running(self, device: torch.device) -> Iterator[None]:
        """Add the time that a block takes on a device."""
        if device.type != "cuda":
            start = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - start
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        yield
        end.record()
        self._events.append((begin, end))
        self._take_passed()

    def read(self) -> float:
        """Return the seconds since it was last read; the GPU may have to catch up."""
        if self._events:
            self._events[-1][1].synchronize()
        self._take_passed()
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _take_passed(self) -> None:
        while self._events and self._events[0][1].query():
            begin, end = self._events.popleft()
            self._seconds += begin.elapsed_time(end) / 1000
