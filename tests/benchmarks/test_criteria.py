"""The benchmark of the criteria: it measures what training runs, and all of it."""

import importlib
import json
import math
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

from espnet_softpl.criteria import available, build
from tests import ROOT

BENCHMARKS = ROOT / "benchmarks"
# A sum of others.
MEASURED = sorted(set(available()) - {"blend"})
SIZES = ["--batch", "2", "--frames", "30", "--labels", "6", "--repeats", "1"]
PARTS = ("loss_ms", "target_ms", "total_ms", "loss_ratio", "total_ratio")
OTHERS = ("target_per_half_encoder", "peak_ratio", "peak_per_ctc_peak")
FLAGS = ("target_met", "peak_met")


def load(name: str) -> Iterator[ModuleType]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module(name)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def common() -> Iterator[ModuleType]:
    yield from load("common")


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    yield from load("criteria")


@pytest.fixture
def batch(bench):
    return bench.make_batch((2, 30, 8), 6, 1, torch.device("cpu"))


def test_every_criterion_is_measured(bench):
    assert sorted(bench.ENTRIES) == MEASURED


@pytest.mark.slow
def test_figures_are_complete(bench, tmp_path, capsys):
    pytest.importorskip("espnet2")
    file = tmp_path / "figures.json"
    arguments = ["--json", str(file), *SIZES, "--vocab", "8", "9"]
    assert bench.main(arguments) == 0
    figures = json.loads(file.read_text())
    table = capsys.readouterr().out
    for name in MEASURED:
        assert table.count(f"\n{name} ") == 2
    keys = [f"{name}.{part}" for name in MEASURED for part in PARTS + OTHERS]
    keys += ["ctc_ms", "ctc_peak_ratio", "encoder_ms", "teacher_entropy_nats"]
    for vocab in ("v8", "v9"):
        for key in keys:
            assert 0.0 < figures[f"{vocab}.{key}"] < math.inf, key
        for name in MEASURED:
            flags = [figures[f"{vocab}.{name}.{flag}"] for flag in FLAGS]
            assert all(isinstance(flag, bool) for flag in flags)
    assert not any(isinstance(value, dict | list) for value in figures.values())
    assert {"command", "seed", "machine.cpu", "machine.torch"} <= set(figures)
    assert [file] == list(tmp_path.iterdir())


@pytest.mark.parametrize("name", MEASURED)
def test_parts_are_what_the_criterion_computes(bench, batch, name):
    entry = bench.ENTRIES[name]
    criterion = build(name, **entry.conf)
    torch.manual_seed(1)
    expected = criterion(batch.log_probs, batch.lengths, batch.label)
    torch.manual_seed(1)
    target = entry.target(criterion, batch.label)
    losses = entry.loss(batch.log_probs, batch.lengths, target)
    torch.testing.assert_close(losses, expected)
    assert losses.shape == (2,)
    assert losses.requires_grad


def test_ctc_evaluations_are_counted(bench, batch):
    for name, entry in bench.ENTRIES.items():
        if entry.loss is bench.transcript_loss:
            tokens, *_ = entry.target(build(name, **entry.conf), batch.label)
            assert tokens.size(1) == entry.evaluations, name


@pytest.mark.parametrize("vocab", [32, 1000])
def test_teacher_looks_like_ctc(bench, vocab):
    shape = (4, 200, vocab)
    batch = bench.make_batch(shape, 50, 3, torch.device("cpu"))
    assert batch.entropy == pytest.approx(bench.ENTROPY_NATS, abs=0.1)
    assert ((batch.label.token_lengths - 50).abs() <= 10).all()
    assert (batch.label.log_probs.argmax(-1) == 0).float().mean() > 0.6
    again = bench.make_batch(shape, 50, 3, torch.device("cpu"))
    assert torch.equal(again.log_probs, batch.log_probs)
    assert torch.equal(again.label.log_probs, batch.label.log_probs)
    other = bench.make_batch(shape, 50, 4, torch.device("cpu"))
    assert not torch.equal(other.label.log_probs, batch.label.log_probs)


def test_limits_are_judged(bench):
    times = {"loss": 4.0, "target": 6.0, "total": 10.0}
    entry = bench.Entry(None, None, {}, limit=1.2, evaluations=4)
    figures = bench._figures(entry, times, ctc=1.0, encoder=12.0)
    assert figures["judged_ratio"] == 1.0
    assert figures["loss_met"] and figures["target_met"]
    assert not bench._figures(entry, times, ctc=0.8, encoder=12.0)["loss_met"]
    assert not bench._figures(entry, times, ctc=1.0, encoder=11.0)["target_met"]
    entry = entry._replace(counts_target=True)
    assert bench._figures(entry, times, ctc=1.0, encoder=12.0)["judged_ratio"] == 2.5
    free = bench.Entry(None, None)
    assert "loss_met" not in bench._figures(free, times, ctc=1.0, encoder=1.0)
    assert bench._memory_figures(2.0, 4.0)["peak_met"]
    assert not bench._memory_figures(2.1, 4.0)["peak_met"]


def test_peak_counts_what_lives_at_one_moment(common):
    kept = []

    def step():
        first = torch.zeros(1000)
        second = torch.zeros(2000)
        del first
        kept.append(torch.zeros(500))
        second.exp_()

    outside = torch.zeros(5000)
    assert common.peak_bytes(step, torch.device("cpu")) == 4 * 3000
    assert outside.numel() == 5000


def test_peak_of_an_elementwise_gradient(common, bench):
    leaf = torch.randn(10000, requires_grad=True)
    step = bench.gradient_step(leaf, lambda: leaf.exp())
    # exp's result, and the gradient; a scalar sum and its gradient beside them.
    assert 2.0 <= common.peak_bytes(step, torch.device("cpu")) / leaf.nbytes < 2.01


def test_rounds_are_interleaved_and_the_first_is_not_counted(common, monkeypatch):
    order = []
    clock = iter([0.0, 9.0, 0.0, 9.0, 0, 1.0, 0, 2.0, 0, 5.0, 0, 4.0, 0, 3.0, 0, 8.0])
    monkeypatch.setattr(common.time, "process_time", lambda: next(clock))
    steps = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    times = common.median_times(steps, 3, torch.device("cpu"))
    assert order == ["a", "b", "b", "a"] * 2
    assert times == {"a": 5000.0, "b": 3000.0}


def test_json_is_written_in_full_or_not_at_all(common, tmp_path):
    file = tmp_path / "figures.json"
    common.write_json(file, {"a": 1.5, "b": True})
    assert json.loads(file.read_text()) == {"a": 1.5, "b": True}
    with pytest.raises(ValueError):
        common.write_json(file, {"a": math.nan})
    assert json.loads(file.read_text()) == {"a": 1.5, "b": True}
    assert [file] == list(tmp_path.iterdir())


def test_table_is_aligned(common):
    text = common.format_table(("name", "x", "end"), [("a", "10.0", "met")])
    assert text == "name     x  end\na     10.0  met"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--repeats", "0"],
        ["--frames", "30", "--labels", "16"],
        ["--vocab", "1"],
    ],
)
def test_impossible_sizes_are_refused(bench, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        bench.parse_arguments(arguments)
    assert stop.value.code != 0
    assert arguments[-2] in capsys.readouterr().err


def test_command_can_be_repeated(common, monkeypatch):
    assert common.command_line("b.py", ["--seed", "1"]) == "python b.py --seed 1"
    monkeypatch.setattr(sys, "argv", ["ignored", "a b"])
    assert common.command_line("b.py", None) == "python b.py 'a b'"
