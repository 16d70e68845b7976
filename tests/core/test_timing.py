"""The time of blocks of code, on a CPU and on a GPU that lags behind."""

from __future__ import annotations

import time

import pytest
import torch

from espnet_softpl.core.timing import Stopwatch

CPU = torch.device("cpu")


def test_blocks_are_summed_until_they_are_read() -> None:
    watch = Stopwatch()
    for _ in range(2):
        with watch.running(CPU):
            time.sleep(0.02)
    assert watch.read() >= 0.04
    assert watch.read() == 0.0


class Queue:
    """A GPU that has passed the events up to `passed`, a second each."""

    def __init__(self) -> None:
        self.recorded, self.passed, self.waits = 0, 0, 0

    def event(self, enable_timing: bool) -> Event:
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, queue: Queue) -> None:
        self.queue, self.place = queue, 0

    def record(self) -> None:
        self.queue.recorded += 1
        self.place = self.queue.recorded

    def query(self) -> bool:
        return self.place <= self.queue.passed

    def synchronize(self) -> None:
        self.queue.waits += 1
        self.queue.passed = self.place

    def elapsed_time(self, end: Event) -> float:
        assert self.query() and end.query()
        return 1000.0 * (end.place - self.place)


def test_a_gpu_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    queue = Queue()
    monkeypatch.setattr(torch.cuda, "Event", queue.event)
    watch = Stopwatch()
    for passed in (0, 1, 5):
        queue.passed = passed
        with watch.running(torch.device("cuda")):
            pass
    assert queue.waits == 0
    assert watch.read() == 3.0 and queue.waits == 1
    assert watch.read() == 0.0 and queue.waits == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_time_of_a_gpu() -> None:
    watch, device = Stopwatch(), torch.device("cuda")
    matrix = torch.ones(4096, 4096, device=device)
    for _ in range(20):
        with watch.running(device):
            matrix @ matrix
    assert 0.0 < watch.read() < 60.0
