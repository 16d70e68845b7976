"""The soak: what it compares, and a few kills of a tiny training."""

from __future__ import annotations

import json
import math
import random
import shutil
import sys

import pytest
import torch
import yaml

from tests import ROOT
from tests.support.espnet_runs import PL, config, load, make_data

sys.path.insert(0, str(ROOT / "benchmarks"))

import cache_use
import soak

CACHED = dict(pl_cache="slimipl", pl_cache_conf={"size": 2, "probability": 0.5})


def test_every_case_is_a_legal_configuration() -> None:
    from espnet_softpl.training import checks
    from espnet_softpl.training.task import SoftPLTask

    for case in soak.CASES.values():
        args = SoftPLTask.get_parser().parse_args(["--output_dir", "unused"])
        vars(args).update(config(**case))
        checks.check_options(args)


def test_attempts_are_of_every_kind_and_repeatable() -> None:
    drawn = [soak.draw_attempt(random.Random(i), 10.0) for i in range(200)]
    assert {a.kind for a in drawn} == {"time", "term", "write", "file"}
    assert drawn == [soak.draw_attempt(random.Random(i), 10.0) for i in range(200)]
    assert all(0 <= a.seconds <= 7 and 1 <= a.number <= 12 for a in drawn)


def test_states_are_compared_bit_for_bit() -> None:
    state = {"a": torch.tensor([0.0, math.nan]), "b": [1, math.nan], "c": "x"}
    assert soak.same(state, {**state, "a": state["a"].clone()})
    for change in (
        {"a": torch.tensor([-0.0, math.nan])},
        {"a": torch.tensor([0.0, math.nan], dtype=torch.float64)},
        {"a": torch.tensor([0.0])},
        {"b": [1, 2.0]},
        {"c": "y"},
        {"d": 0},
    ):
        assert not soak.same(state, {**state, **change}), change
    assert soak.differences({"x": state, "y": 1}, {"x": state, "y": 2}) == ["y"]
    assert soak.differences({"x": 1}, {"x": 1, "z": 2}) == ["z"]


def test_what_measures_time_is_left_out(tmp_path) -> None:
    stats = {"loss": 1.0, "train_time": 3.0, "time": 4, "gpu_max_cached_mem_GB": 1}
    assert soak.plain({"stats": stats}, tmp_path) == {"stats": {"loss": 1.0}}


@pytest.mark.slow
def test_a_few_kills_of_a_tiny_training(tmp_path, monkeypatch, capsys) -> None:
    data = make_data(tmp_path / "data")
    monkeypatch.setattr(soak, "prepare", lambda *arguments: None)

    def configure(case, recipe, work):
        return config(**{**data.options(), **PL, **case, "max_epoch": 3})

    monkeypatch.setattr(soak, "configure", configure)
    monkeypatch.setitem(soak.CASES, "student, slimipl", CACHED)
    file, work = tmp_path / "soak.json", tmp_path / "work"
    command = ["--kills", "4", "--jobs", "1", "--only", "student, slimipl"]
    command += ["--json", str(file), "--work", str(work), "--recipe", str(tmp_path)]
    assert soak.main(command) == 0, capsys.readouterr().out
    figures = json.loads(file.read_text())
    assert figures["kills"] == 4 and figures["differences"] == 0
    whole = work / "case0" / "undisturbed"
    expected = soak.contents(whole)
    assert {"checkpoint.pth", "latest.pth", "teacher.pth"} <= set(expected)
    assert "pl_state/3epoch.rank0.pth" in expected
    # The comparison sees a single bit, and a link.
    spoiled = tmp_path / "spoiled"
    shutil.copytree(whole, spoiled, symlinks=True)
    weights = load(spoiled / "teacher.pth")
    first = next(iter(weights.values()))
    first[(0,) * first.dim()] += 1e-6
    torch.save(weights, spoiled / "teacher.pth")
    (spoiled / "latest.pth").unlink()
    (spoiled / "latest.pth").symlink_to("1epoch.pth")
    found = soak.differences(expected, soak.contents(spoiled))
    assert found == ["latest.pth", "teacher.pth"]


@pytest.mark.slow
def test_cache_use_reads_a_run(tmp_path, capsys) -> None:
    from espnet_softpl.training.task import SoftPLTask
    from tests.support.espnet_runs import train

    data = make_data(tmp_path / "data")
    options = config(**{**data.options(), **PL, **CACHED}, num_iters_per_epoch=12)
    exp = train(SoftPLTask, options, tmp_path / "runs" / "exp")
    assert cache_use.main([str(exp), "--json", str(tmp_path / "use.json")]) == 0
    assert "runs/exp" in capsys.readouterr().out
    figures = json.loads((tmp_path / "use.json").read_text())
    counts = load(exp / "pl_state" / "2epoch.rank0.pth")["cache"]["counts"]
    assert figures["runs/exp.made"] == counts["made"] == 2 + counts["replaced"]
    # Half of the schedule's turns: those of 24 steps, and the filling.
    assert figures["runs/exp.draws"] == (24 + 2) // 2
    assert figures["runs/exp.uses_expected"] < 1 / 0.5 + 0.5
    yaml_file = exp / "config.yaml"
    conf = yaml.safe_load(yaml_file.read_text())
    yaml_file.write_text(yaml.safe_dump({**conf, "pl_cache": "none"}))
    with pytest.raises(ValueError, match="no run of one process with pl_cache"):
        cache_use.main([str(exp)])
