"""The benchmark of the full-size models: its counts, and the table in the docs."""

import importlib
import json
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

from tests import ROOT

PAGE = ROOT / "docs/dev/librispeech_cost.md"
SHORT = ROOT / "docs/librispeech.md"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("step_cost")
    torch.set_num_threads(threads)


def test_a_backward_pass_counts_as_two_forward_passes(bench) -> None:
    """Of a convolution in groups too, which torch itself counts without its groups."""
    model = torch.nn.Conv1d(8, 8, 3, groups=8, bias=False)
    audio = torch.randn(1, 8, 12)
    steps = {"loss": lambda: model(audio), "labeling": lambda: model(audio)}
    forward = 2 * 8 * 3 * 10
    assert bench.count_flops(steps) == {"labeled": 3 * forward, "labeling": forward}


def test_the_audio_of_a_run_is_that_of_its_mini_batches(bench) -> None:
    conf = {"num_iters_per_epoch": 10, "max_epoch": 3, "batch_bins": 32000}
    assert bench.audio_of(conf) == 60.0


@pytest.mark.parametrize("name", ["slimipl_ls100", "conformer_ctc"])
def test_the_estimate_is_the_formula(bench, name: str) -> None:
    measured = dict(
        parameters=1e9, labeled_flops=3e9, labeling_flops=1e9, activation_bytes=1e7
    )
    found = bench.estimate(bench.ENTRIES[name], measured, 1e12)
    pl = bench.read(bench.ENTRIES[name].pl)
    hours = bench.audio_of(pl) / 3600
    # A labeling before every unlabeled mini-batch, or with a cache before one in ten.
    share = 0.8 * 0.1 if name == "slimipl_ls100" else 0.5
    assert found["pl_gpu_hours"] == pytest.approx(hours * (3e9 + share * 1e9) / 1e12)
    # Weights, gradients, Adagrad's one state; or Adam's two and the teacher.
    copies = 3 if name == "slimipl_ls100" else 5
    assert found["fixed_memory_gb"] == pytest.approx(4.0 * copies)
    assert found["batch_memory_gb_per_100_s"] == pytest.approx(1.0)


def shrink(conf: dict[str, Any]) -> dict[str, Any]:
    """Make a model of the same kind tiny."""
    small = dict(output_size=16, attention_heads=2, linear_units=16, num_blocks=2)
    if "cgmlp_linear_units" in conf["encoder_conf"]:
        small["cgmlp_linear_units"] = 16
    conf["encoder_conf"] = {**conf["encoder_conf"], **small}
    if "decoder" in conf:
        tiny = dict(attention_heads=2, linear_units=16, num_blocks=1)
        conf["decoder_conf"] = {**conf["decoder_conf"], **tiny}
    return conf


@pytest.mark.slow
def test_figures_are_complete(bench, tmp_path, capsys, monkeypatch) -> None:
    read = bench.read
    monkeypatch.setattr(bench, "read", lambda name: shrink(read(name)))
    monkeypatch.setitem(bench.CALIBRATION, "blocks", 2)
    file = tmp_path / "figures.json"
    arguments = ["--json", str(file), "--batch", "1", "--seconds", "2"]
    assert bench.main(arguments) == 0
    figures = json.loads(file.read_text())
    table = capsys.readouterr().out
    for name in bench.ENTRIES:
        assert table.count(f"\n{name} ") == 1
        found = [value for key, value in figures.items() if key.startswith(f"{name}.")]
        assert len(found) == 11 and all(value > 0 for value in found)
    assert figures["assumed.flops_per_second"] > 0


def test_bad_arguments_are_refused(bench, capsys) -> None:
    for arguments in (["--batch", "0"], ["--seconds", "1"], ["--device", "cuda"]):
        with pytest.raises(SystemExit) as stop:
            bench.parse_arguments(arguments)
        assert stop.value.code == 2
        assert arguments[0] in capsys.readouterr().err


def numbers(row: str) -> list[float]:
    return [float(cell.replace(",", "")) for cell in row.split("|")[2:-1]]


def test_the_table_of_the_page_follows_from_its_own_figures(bench) -> None:
    """Its GPU hours are the formula's, with the configurations as they are now."""
    text = PAGE.read_text(encoding="utf-8")
    (sustained,) = re.findall(r"\*\*(\d+\.\d+) TFLOP/s\*\*", text)
    rows = re.findall(r"^\| `\w+` (?:\|[^|\n]+){9}\|$", text, re.MULTILINE)
    found = {row.split("`")[1]: numbers(row) for row in rows}
    assert found.keys() == bench.ENTRIES.keys()
    for name, values in found.items():
        parameters, labeled, labeling, _, _, memory, *rest = values
        measured = dict(
            parameters=parameters * 1e6,
            labeled_flops=labeled * 1e9,
            labeling_flops=labeling * 1e9,
            activation_bytes=memory * 1e7,
        )
        flops = float(sustained) * 1e12
        wanted = bench.estimate(bench.ENTRIES[name], measured, flops)
        for key, value in zip(("warmup_gpu_hours", "pl_gpu_hours"), rest, strict=False):
            assert value == pytest.approx(wanted[key], rel=0.03), (name, key)
        assert rest[2] == pytest.approx(wanted["checkpoints_gb"], rel=0.03)


def test_the_short_table_has_the_figures_of_the_long_one() -> None:
    pattern = r"^\| `(\w+)` (?:\|[^|\n]+){%d}\|$"
    long = PAGE.read_text(encoding="utf-8")
    found = [
        {
            row[1].removesuffix("_ls100"): row[0]
            for row in re.finditer(pattern % n, text, re.M)
        }
        for text, n in ((long, 9), (SHORT.read_text(encoding="utf-8"), 5))
    ]
    assert len(found[1]) == 3
    for name, row in found[1].items():
        cells = [cell.strip() for cell in row.split("|")]
        assert cells[2:5] == [cell.strip() for cell in found[0][name].split("|")][8:11]
