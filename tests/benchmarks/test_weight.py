"""The benchmark of lambda: its figures and its configuration."""

import importlib
import types
from collections.abc import Iterator

import pytest
import torch

from tests import ROOT


@pytest.fixture(scope="module")
def bench() -> Iterator[types.ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("weight")


def test_distances_are_shares_of_the_way_of_weight_one(bench) -> None:
    def run(*values: float) -> dict:
        vector = torch.tensor(values, dtype=torch.float64)
        return {"vector": vector, "clipped": 0.5, "norms": [1.0, 2.0]}

    runs = {("block", 1.0): run(3.0, 4.0), ("block", 0.5): run(3.0, 1.0)}
    figures = bench.compare(runs, torch.zeros(2, dtype=torch.float64))
    assert figures["block_1"]["distance"] == 0.0
    assert figures["block_0.5"] == {
        "distance": pytest.approx(3.0 / 5.0),
        "clipped": 0.5,
        "norm_labeled": 1.0,
        "norm_unlabeled": 2.0,
    }


def test_running_means_do_not_count(bench, tmp_path) -> None:
    weights = {"w": torch.ones(2, 2), "norm.running_mean": torch.ones(9)}
    torch.save(weights, tmp_path / "model.pth")
    assert bench.vector(tmp_path / "model.pth").tolist() == [1.0] * 4
