"""The benchmark of the label cache: its figures are those of what training runs."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from espnet_softpl.cache.compression import PRECISIONS, Compression
from espnet_softpl.ctc import greedy
from tests import ROOT
from tests.conftest import make_log_probs

BENCHMARKS = ROOT / "benchmarks"
SIZES = ["--utterances", "2", "--seconds", "1", "--repeats", "1"]
FIGURES = (
    "bytes_per_frame",
    "mb_per_hour",
    "stored_share",
    "loss_change",
    "kl_mean_nats",
    "kl_p99_nats",
    "gradient_difference",
    "best_token_kept",
    "compress_ms_per_hour",
    "compress_per_copy",
    "restore_ms_per_hour",
    "restore_per_copy",
)


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module("cache")
    torch.set_num_threads(threads)


def run(bench: ModuleType, folder: Path, *arguments: str) -> dict[str, object]:
    """Run the benchmark and return its figures."""
    file = folder / "figures.json"
    assert bench.main(["--json", str(file), *SIZES, *arguments]) == 0
    return json.loads(file.read_text())


def test_figures_are_complete(bench, tmp_path, capsys) -> None:
    arguments = ["--cases", "9@25", "300@33.3", "--top_k", "2", "20", "all"]
    figures = run(bench, tmp_path, *arguments)
    table = capsys.readouterr().out
    # 20 of 9 tokens are all of them.
    for case, numbers in (("v9_25", ["top2"]), ("v300_33.3", ["top2", "top20"])):
        kinds = [*PRECISIONS, "uint8_p0.003", "uint8_p0.0002", "uint8_p2e-05"]
        names = [f"{k}_{p}" for k in [*numbers, "all"] for p in kinds]
        for name in names:
            assert f"\n{name} " in table
            for figure in FIGURES:
                value = figures.pop(f"{case}.{name}.{figure}")
                assert 0.0 <= value < math.inf
            assert not [key for key in figures if key.startswith(f"{case}.{name}.")]
        for name in ("float32", "hard_int16", "hard_int32"):
            assert f"\n{name} " in table
            assert figures[f"{case}.{name}.mb_per_hour"] > 0.0
        for name in ("entropy_nats", "tokens_per_second", "copy_ms_per_hour"):
            assert figures[f"{case}.{name}"] > 0.0
    assert not any(isinstance(value, dict | list) for value in figures.values())
    assert {"command", "seed", "machine.cpu", "machine.torch"} <= set(figures)


def test_costs_are_those_of_the_tensors(bench, tmp_path) -> None:
    figures = run(bench, tmp_path, "--cases", "300@20", "--top_k", "4", "all")
    frames_per_hour = 20 * 3600
    for name, num_bytes in (
        ("top4_uint8", 4 * (2 + 1)),
        ("top4_float16", 4 * (2 + 2)),
        ("top4_float32", 4 * (2 + 4)),
        ("all_uint8", 300),
        ("all_float32", 1200),
    ):
        assert figures[f"v300_20.{name}.bytes_per_frame"] == num_bytes
        found = figures[f"v300_20.{name}.mb_per_hour"]
        assert found == pytest.approx(num_bytes * frames_per_hour / 1e6)
    assert figures["v300_20.float32.mb_per_hour"] == pytest.approx(
        1200 * frames_per_hour / 1e6
    )


@pytest.mark.parametrize(
    "size, min_p, most_bytes", [(32, 3e-3, 0.05), (500, 2e-4, 0.01)]
)
def test_few_bytes_are_nearly_the_label(bench, size, min_p, most_bytes) -> None:
    log_probs = bench.make_posteriors((2, 300, size), 25.0, 1)
    speech = bench.Speech(log_probs, torch.tensor([300, 300]), 25.0)
    figures = bench.measure(speech, [32 if size > 32 else None], 1, [min_p])
    name = f"{'top32' if size > 32 else 'all'}_uint8_p{min_p:g}"
    assert 0.0 < figures[f"{name}.stored_share"] <= most_bytes
    assert 0.0 < figures[f"{name}.loss_change"] < 0.015
    assert figures[f"{name}.best_token_kept"] == 1.0


def test_hard_labels_cost_their_tokens(bench, tmp_path) -> None:
    lengths = [30, 50]
    rows = [make_log_probs(1, length, 7)[0] for length in lengths]
    torch.save(rows, tmp_path / "rows.pt")
    arguments = ["--posteriors", str(tmp_path / "rows.pt"), "--rate", "40"]
    figures = run(bench, tmp_path, *arguments, "--top_k", "all")
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    num_tokens = int(greedy(padded, torch.tensor(lengths))[1].sum())
    per_second = num_tokens / (80 / 40)
    assert figures["v7_40.frames"] == 80
    assert figures["v7_40.tokens_per_second"] == pytest.approx(per_second)
    for bits in (16, 32):
        found = figures[f"v7_40.hard_int{bits}.mb_per_hour"]
        assert found == pytest.approx(per_second * 3600 * bits / 8 / 1e6)
    entropy = -sum(float((row.exp() * row).sum()) for row in rows) / 80
    assert figures["v7_40.entropy_nats"] == pytest.approx(entropy, rel=1e-4)


def test_losses_are_as_written_down(bench) -> None:
    log_probs = make_log_probs(2, 20, 6)
    lengths = torch.tensor([20, 7])
    conf = Compression(2, "uint8")
    restored = conf.restore(conf.compress(log_probs, lengths), lengths, 20, 6)
    found = bench.losses(bench.Speech(log_probs, lengths, 25.0), restored)
    divergences, differences = [], []
    for b, t in [(0, t) for t in range(20)] + [(1, t) for t in range(7)]:
        p = [math.exp(x) for x in log_probs[b, t].tolist()]
        q = [math.exp(x) for x in restored[b, t].tolist()]
        divergences.append(sum(x * math.log(x / y) for x, y in zip(p, q)))
        differences += [abs(x - y) for x, y in zip(p, q)]
    mean = sum(divergences) / 27
    assert found["kl_mean_nats"] == pytest.approx(mean, rel=1e-4)
    assert found["kl_p99_nats"] == pytest.approx(max(divergences), rel=0.2)
    assert found["gradient_difference"] == pytest.approx(max(differences), rel=1e-4)
    assert found["best_token_kept"] == 1.0
    other = bench.losses(bench.Speech(log_probs, lengths, 25.0), log_probs.flip(-1))
    assert other["best_token_kept"] < 0.5


def test_nothing_is_lost_of_an_exact_copy(bench, tmp_path) -> None:
    figures = run(bench, tmp_path, "--cases", "40@25", "--top_k", "4", "all")
    assert figures["v40_25.all_float32.kl_p99_nats"] < 1e-9
    assert figures["v40_25.all_float32.gradient_difference"] < 1e-4
    assert figures["v40_25.top4_float32.kl_mean_nats"] > 1e-4
    assert all(v == 1.0 for k, v in figures.items() if k.endswith("best_token_kept"))


@pytest.mark.parametrize("vocab, per_second", [(32, 13.5), (2000, 3.0)])
def test_synthetic_posteriors_look_like_ctc(bench, vocab, per_second) -> None:
    shape = (4, 500, vocab)
    log_probs = bench.make_posteriors(shape, 25.0, 3)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(4, 500))
    best, token = log_probs.max(-1)
    share = float((token == 0).float().mean())
    assert share == pytest.approx(1.0 - per_second / 25.0, abs=0.04)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    assert 0.15 < float(entropy.mean()) < 0.5
    # Mostly sure, with some frames of rivals.
    assert 0.6 < float((best > math.log(0.9)).float().mean()) < 0.95
    assert 0.03 < float((best < math.log(0.7)).float().mean()) < 0.3
    assert torch.equal(bench.make_posteriors(shape, 25.0, 3), log_probs)
    assert not torch.equal(bench.make_posteriors(shape, 25.0, 4), log_probs)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"a": torch.zeros(3, 2)},
        [torch.zeros(3, 2), torch.zeros(3, 4)],
        [torch.zeros(3, 2, 2)],
        [torch.zeros(3, 2, dtype=torch.long)],
        ["text"],
    ],
)
def test_other_files_are_refused(bench, tmp_path, content) -> None:
    file = tmp_path / "rows.pt"
    torch.save(content, file)
    with pytest.raises(ValueError, match="rows.pt: not a list of"):
        bench.read_posteriors(file, 25.0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--repeats", "0"],
        ["--seconds", "0"],
        ["--seconds", "nan"],
        ["--rate", "inf"],
        ["--top_k", "0"],
        ["--top_k", "some"],
        ["--cases", "32"],
        ["--cases", "1@25"],
        ["--cases", "32@0"],
    ],
)
def test_impossible_options_are_refused(bench, arguments, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        bench.parse_arguments(arguments)
    assert stop.value.code != 0
    assert arguments[0] in capsys.readouterr().err
