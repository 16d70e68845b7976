"""SIGTERM: the training stops between two steps, saves, and goes on from there."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from espnet_softpl.training.resume import interruption
from espnet_softpl.training.task import SoftPLTask
from tests.end_to_end.test_training import SLIMIPL, cases, compare_runs
from tests.support.espnet_runs import Data, make_data, train
from tests.training.resume.test_faults import FAULTS, faulty, nothing, run_apart


@pytest.fixture
def data(tmp_path) -> Data:
    FAULTS.clear()
    return make_data(tmp_path / "data")


def interrupt(losses: torch.Tensor, number: int = signal.SIGTERM) -> torch.Tensor:
    signal.raise_signal(number)
    return losses


def press_ctrl_c(losses: torch.Tensor) -> torch.Tensor:
    return interrupt(losses, signal.SIGINT)


LABEL_CHANGE = dict(
    pl_teacher="student",
    pl_teacher_conf={},
    pl_cache="label_change",
    pl_cache_conf={"size": 2, "lag": 3},
    num_workers=1,
)
ACCUMULATION = dict(
    accum_grad=3, num_iters_per_epoch=9, pl_teacher="topn", pl_teacher_conf={}
)
STOPPED = {
    "ema": ({},),
    "slimipl": (SLIMIPL,),
    "label_change": (LABEL_CHANGE,),
    "accumulation": (ACCUMULATION,),
}


@pytest.mark.parametrize("changes", cases(STOPPED, fast="slimipl"))
def test_told_to_stop_it_saves_and_goes_on_from_there(data, tmp_path, changes) -> None:
    options = faulty(data, **{"num_iters_per_epoch": 8, **changes})
    whole = train(SoftPLTask, options, tmp_path / "whole")
    exp = tmp_path / "exp"
    before = signal.getsignal(signal.SIGINT)  # A job in the background ignores it.
    saved = set()
    # In the first unlabeled step, in another epoch, and soon after resuming.
    for wait, fault, status in (
        (0, interrupt, 143),
        (4, press_ctrl_c, 130),
        (1, interrupt, 143),
    ):
        FAULTS[:] = [nothing] * wait + [fault]
        with pytest.raises(SystemExit) as stop:
            train(SoftPLTask, options, exp, "--resume", "true")
        assert stop.value.code == status
        saved |= set((exp / "pl_state").glob("*batches.rank0.pth"))
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) == before
    assert len(saved) >= 2
    train(SoftPLTask, options, exp, "--resume", "true")
    compare_runs(whole, exp, epochs=3)
    assert not list((exp / "pl_state").glob("*batches.rank0.pth"))


def test_ctrl_c_again_ends_at_once() -> None:
    child = os.fork()
    if child == 0:
        with interruption.StopRequest().on_signals():
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGINT)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGINT


def test_a_process_with_loaders_only_ends_by_the_signal() -> None:
    """As the stock training does that goes through our task."""
    child = os.fork()
    if child == 0:
        with interruption.terminating_children():
            loader = multiprocessing.get_context("fork").Process(
                target=time.sleep, args=(9,), daemon=True
            )
            loader.start()
            signal.raise_signal(signal.SIGTERM)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGTERM


@pytest.mark.slow
def test_a_file_of_another_world_is_not_taken(data, tmp_path) -> None:
    """A process that did not live to save its part: the epoch begins anew."""
    options = faulty(data, num_iters_per_epoch=8)
    whole = train(SoftPLTask, options, tmp_path / "whole")
    exp = tmp_path / "exp"
    FAULTS[:] = [nothing] * 5 + [interrupt]
    with pytest.raises(SystemExit):
        train(SoftPLTask, options, exp, "--resume", "true")
    (saved,) = (exp / "pl_state").glob("*batches.rank0.pth")
    os.replace(saved, saved.with_name(saved.name.replace("rank0", "rank1")))
    train(SoftPLTask, options, exp, "--resume", "true")
    compare_runs(whole, exp, epochs=3)


@pytest.mark.slow
def test_an_epoch_that_is_now_shorter_is_refused(data, tmp_path, capsys) -> None:
    options, exp = faulty(data, num_iters_per_epoch=8), tmp_path / "exp"
    FAULTS[:] = [nothing] * 5 + [interrupt]
    with pytest.raises(SystemExit):
        train(SoftPLTask, options, exp)
    shorter = {**options, "num_iters_per_epoch": 2, "pl_allow_changed_resume": True}
    with pytest.raises(SystemExit) as refused:
        train(SoftPLTask, shorter, exp, "--resume", "true")
    assert refused.value.code == 2
    words = r"epoch 2 was stopped after 3 mini-batches and now has 2 \(num_iters_per"
    assert re.search(words, capsys.readouterr().err)


def test_an_iterator_stops_between_two_steps() -> None:
    stop, steps = interruption.StopRequest(), []
    batches = interruption.StoppableIterator(
        range(10), stop, accum_grad=3, skip=2, after_step=lambda: steps.append(0)
    )
    seen = []
    for batch in batches:
        seen.append(batch)
        stop.is_set = batch >= 3
    assert seen == [2, 3, 4, 5] and len(steps) == 4
    assert batches.done == 6 and not batches.complete and len(batches) == 10
    stop.is_set = False
    assert [*interruption.StoppableIterator(range(3), stop)] == [0, 1, 2]


def test_the_random_state_is_restored_after_what_is_skipped() -> None:
    order = []

    def read():
        for number in range(3):
            order.append(f"read {number}")
            yield number

    class Batches:
        def __iter__(self):
            return read()

    batches = interruption.StoppableIterator(
        Batches(),
        interruption.StopRequest(),
        skip=2,
        begin=lambda: order.append("restore"),
    )
    assert list(batches) == [2]
    assert order == ["read 0", "read 1", "restore", "read 2"]


class Drawing:
    """Mini-batches that are read, and augmented, in this process."""

    def __iter__(self) -> Iterator[float]:
        """Yield ten random numbers."""
        np.random.seed(1)
        return (np.random.rand() for _ in range(10))

    def __len__(self) -> int:
        return 10


def test_what_was_read_before_the_stop_is_read_again_alike() -> None:
    """The mini-batch after the last one was augmented, and is not trained on."""
    whole = list(Drawing())
    stop = interruption.StopRequest()
    random = dict(random_state=np.random.get_state)
    first = interruption.StoppableIterator(Drawing(), stop, accum_grad=2, **random)
    seen = []
    for batch in first:
        seen.append(batch)
        stop.is_set = len(seen) >= 3
    stop.is_set = False
    rest = interruption.StoppableIterator(
        Drawing(),
        stop,
        skip=first.done,
        begin=lambda: np.random.set_state(first.random),
    )
    assert first.done == 4 and [*seen, *rest] == whole


class Slow(torch.utils.data.Dataset):
    """Ten items that take their time."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> int:
        """Return the index, after a while."""
        time.sleep(0.1)
        return index


class TimeLeft(Slow):
    """Items that say in how many seconds the process will end itself."""

    def __getitem__(self, index: int) -> float:
        """Return them, after a while."""
        super().__getitem__(index)
        return signal.getitimer(signal.ITIMER_REAL)[0]


class LoaderFactory:
    """Builds a loader with one process of its own."""

    def __init__(self, dataset: torch.utils.data.Dataset) -> None:
        self._dataset = dataset

    def build_iter(self, epoch: int, shuffle: bool | None = None) -> DataLoader:
        """Build it."""
        return DataLoader(self._dataset, num_workers=1, worker_init_fn=None)


def loader_of(dataset: torch.utils.data.Dataset) -> DataLoader:
    factory = interruption.SigtermTolerantFactory(LoaderFactory(dataset))
    return factory.build_iter(1)


def outlive() -> None:
    """Signal a loader's process twice, go on reading, and let it end by itself."""
    interruption.LOADER_SECONDS = 2
    items = iter(loader_of(Slow()))
    seen = [int(next(items))]
    (child,) = multiprocessing.active_children()
    for _ in range(2):
        os.kill(child.pid, signal.SIGTERM)
        seen.append(int(next(items)))
    assert seen == [0, 1, 2] and child.is_alive()
    # torch's own way of noticing its end would raise here.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child.join(30.0)
    assert child.exitcode == -signal.SIGALRM
    print("outlived", flush=True)
    os._exit(0)  # Nor may the dead one be noticed at the interpreter's end.


@pytest.mark.slow
def test_loaders_outlive_the_signal_for_a_while() -> None:
    """Schedulers signal every process of a job, and the training needs its loaders."""
    ended = run_apart("test_interruption", "outlive()")
    assert ended.returncode == 0 and "outlived" in ended.stdout, ended.stderr


def test_loaders_live_as_long_as_a_validation_takes() -> None:
    """They are needed to its end, or to that of an update of many mini-batches."""
    items = iter(loader_of(TimeLeft()))
    assert next(items) == 0.0
    (child,) = multiprocessing.active_children()
    os.kill(child.pid, signal.SIGTERM)
    assert [float(item) for item in items][-1] > 3000.0
