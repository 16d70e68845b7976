"""The table of other configurations, on tiny models."""

import importlib
from collections.abc import Iterator

import pytest
import torch

from tests import ROOT


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_each_configuration_has_a_row(monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    bench = importlib.import_module("configurations")
    assert (
        bench.main(["--rounds", "1", "--size", "2", "--seconds", "1", "--small"]) == 0
    )
    table = capsys.readouterr().out
    for name in (*bench.CHANGES, "channels_last", "bfloat16"):
        assert name in table
    (row,) = [line for line in table.splitlines() if bench.SHIPPED in line]
    assert row.endswith("1.00  1.00 to 1.00")


def test_shares_are_of_the_same_round(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    bench = importlib.import_module("configurations")
    moments = {bench.SHIPPED: iter([9.0, 1.0, 4.0]), "half": iter([9.0, 0.5, 2.0])}
    steps = {name: (lambda it=it: next(it)) for name, it in moments.items()}
    (row,) = [line for line in bench.compare(steps, 2).splitlines() if "half" in line]
    assert row.endswith("0.50  0.50 to 0.50")
