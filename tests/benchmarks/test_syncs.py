"""How often a step waits for its own results, and how many operations it starts."""

import importlib
import types
from collections.abc import Iterator

import pytest
import torch

from tests import ROOT
from tests.support.espnet_runs import config


@pytest.fixture(scope="module")
def bench() -> Iterator[types.ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("syncs")


ONES = torch.ones(3)
WAITING = {
    "item": lambda: ONES[0].item(),
    "bool": lambda: bool(ONES.any()),
    "float": lambda: float(ONES.sum()),
    "end of a slice": lambda: ONES[: ONES.long().sum()],
    "comparison": lambda: torch.equal(ONES, ONES),
    "list": lambda: ONES.tolist(),
    "list of one": lambda: ONES[:1].tolist(),
    "copy": lambda: ONES.cpu(),
    "array": lambda: ONES.numpy(),
    "mask": lambda: ONES[ONES > 0],
    "positions": lambda: ONES.nonzero(),
    "repeats": lambda: ONES.repeat_interleave(ONES.long()),
    "from Python": lambda: torch.tensor([1.0]),
}


@pytest.mark.parametrize("name", WAITING)
def test_a_wait_is_counted_once(bench, name) -> None:
    with bench.Syncs() as counter:
        WAITING[name]()
    assert counter.waits.total() == 1


def test_what_stays_on_the_device_does_not_wait(bench) -> None:
    tolist = torch.Tensor.tolist
    with bench.Syncs() as counter:
        ones = torch.full((3,), 1.0)
        ones = ones.masked_fill(ones > 0, 2.0)
        torch.where(ones > 0, ones, 0.0)[torch.arange(2)].mean()
    assert counter.operations > 5 and not counter.waits
    assert torch.Tensor.tolist is tolist


def test_a_step_waits_no_more_than_a_stock_one(bench, tmp_path) -> None:
    small = {"encoder_conf": config()["encoder_conf"]}
    counts = bench.measure(tmp_path, 3, 1.0, **small)
    waits = {name: counter.waits.total() for name, counter in counts.items()}
    more = {name: number - waits["stock"] for name, number in waits.items()}
    lines = {name: counter.waits for name, counter in counts.items()}
    # The goals are 2 more of a labeled and 6 more of an unlabeled step.
    assert more["labeled"] <= -4, lines
    assert more["hard_ctc"] <= -4 and more["soft_ce"] <= -6, lines
    started = {n: c.operations - counts["stock"].operations for n, c in counts.items()}
    assert started["labeled"] <= 140
    assert started["soft_ce"] <= started["hard_ctc"] <= 660
    assert list(bench.figures_of(counts).values())[0] == counts["stock"].operations
