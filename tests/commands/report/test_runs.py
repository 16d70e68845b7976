"""What is read of a training, in every state that it can be in."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
import yaml

from espnet_softpl.commands.report.runs import (
    names_of,
    read_history,
    read_runs,
    seconds_of,
)
from espnet_softpl.training.resume.layout import read_statistics
from tests.support.espnet_runs import PL, config, load
from tests.support.report_pages import copy, run_report


def test_names_tell_experiments_apart() -> None:
    paths = [Path("/e/seed1/hard"), Path("/e/seed2/hard")]
    assert names_of(paths) == ["seed1/hard", "seed2/hard"]
    assert names_of([Path("/e/a"), Path("/e/b")]) == ["a", "b"]


def test_before_the_first_epoch_ends(data, tmp_path) -> None:
    exp = tmp_path / "exp"
    exp.mkdir()
    (exp / "train.log").write_text("# python -m espnet_softpl.bin.train\n")
    page = run_report(exp, out=tmp_path / "one")
    assert "config.yaml is missing or not complete" in page.words
    assert "There are no curves: no epoch is finished yet, or" in page.words
    settings = config(**data.options(), **PL)
    (exp / "config.yaml").write_text(yaml.safe_dump(settings))
    line = "[h] 2026-01-31 12:00:00,000 (trainer:811) INFO: 1epoch:train:1-3batch: a=1"
    (exp / "train.log").write_text(f"# python\n{line}, b=2")
    page = run_report(exp, out=tmp_path / "two")
    assert "The guard's state is not there yet" in page.words
    assert "No labels have been recorded yet." in page.words
    row = page.row("exp", "hard_ctc", "ema")
    assert row[7] == "0 of 2" and row[-1].startswith("running or stopped, last sign")
    assert row[-1].endswith("epoch 1, mini-batch 3")


@pytest.mark.slow
def test_while_files_are_written(runs, tmp_path) -> None:
    exp = copy(runs["cached"], tmp_path / "exp")
    state = exp / "pl_state" / "2epoch.rank0.pth"
    state.write_bytes(state.read_bytes()[:100])
    before = {p: p.read_bytes() for p in exp.rglob("*") if p.is_file()}
    page = run_report(exp, out=tmp_path / "out")
    assert page.row("exp", "hard_ctc", "student", "slimipl")[7:9] == ["2 of 2", "12"]
    assert page.row("pl_frame_entropy mean entropy of a frame (nats)")
    # It only reads.
    assert before == {p: p.read_bytes() for p in exp.rglob("*") if p.is_file()}
    whole = (exp / "checkpoint.pth").read_bytes()
    (exp / "checkpoint.pth").write_bytes(whole[: len(whole) // 2])
    odd = dict(token_list=["A"], pl_criterion="hard_ctc", pl_schedule_conf={"x": 3})
    (exp / "config.yaml").write_text(yaml.safe_dump({**odd, "pl_guard": "panic"}))
    page = run_report(exp, out=tmp_path / "odd")
    assert "The guard's settings are not allowed here: pl_guard: unknown" in page.words
    (exp / "config.yaml").write_text(yaml.safe_dump({**odd, "encoder_conf": "x"}))
    page = run_report(exp, out=tmp_path / "odd")
    assert "encoder_conf must be a mapping, got 'x'" in page.words
    (exp / "config.yaml").write_text("pl_criterion: [hard")
    page = run_report(exp, out=tmp_path / "two")
    assert "There are no curves: no checkpoint can be loaded." in page.words
    assert "config.yaml is missing or not complete" in page.words


def test_the_newest_log_tells_the_status(tmp_path: Path) -> None:
    exp = tmp_path / "exp"
    exp.mkdir()
    (exp / "config.yaml").write_text("token_list: [A]\nmax_epoch: 1\n")
    (exp / "train.log").write_text("[h] The training was finished at 1 epochs\n")
    page = run_report(exp, out=tmp_path / "out")
    assert page.row("exp", "supervised")[-1] == "finished"
    assert "no epoch is finished yet, or checkpoint.pth was deleted" in page.words


def test_states_are_read_from_the_newest_on(runs, tmp_path: Path) -> None:
    exp = copy(runs["alarmed"], tmp_path / "exp")
    states = exp / "pl_state"
    (states / "2epoch.rank0.pth").rename(states / "9epoch.rank0.pth")
    (states / "10epoch.rank0.pth").write_bytes(b"torn")
    (run,) = read_runs([exp], {})
    (whole,) = read_runs([runs["alarmed"]], {})
    monitor = "pl_frame_entropy"
    assert run.guard.level(monitor) == whole.guard.level(monitor)
    assert [alarm.step for alarm in run.alarms] == [a.step for a in whole.alarms]
    assert run.pseudo_labels and not run.notes


def test_a_damaged_checkpoint_gives_nothing(runs, tmp_path) -> None:
    exp = copy(runs["cached"], tmp_path / "exp")
    stats = read_statistics(exp)
    assert list(stats) == [1, 2]
    saved = load(exp / "checkpoint.pth")["reporter"]["stats"]
    assert stats[2]["train"]["pl_cer"] == saved[2]["train"]["pl_cer"]
    whole = (exp / "checkpoint.pth").read_bytes()
    (exp / "checkpoint.pth").write_bytes(whole[: len(whole) // 2])
    assert read_statistics(exp) == {}


class Sentinel:
    """Not among what is loaded for safety."""


def test_nothing_but_plain_values_is_loaded(tmp_path: Path) -> None:
    state = {"reporter": {"stats": {1: Sentinel()}}}
    torch.save(state, tmp_path / "checkpoint.pth")
    assert read_statistics(tmp_path) == {}


def test_curves_have_batches_and_leave_out_what_is_not_finite() -> None:
    stats = {
        epoch: {
            "train": {
                "pl_cer": value,
                "total_count": 10 * epoch,
                "time": timedelta(seconds=60),
            },
            "valid": {"cer_ctc": 0.5, "total_count": 1},
        }
        for epoch, value in ((2, 0.4), (1, float("nan")), (3, float("inf")))
    }
    assert read_history(stats) == {
        "train/pl_cer": [(20, 0.4)],
        "valid/cer_ctc": [(10, 0.5), (20, 0.5), (30, 0.5)],
    }
    assert seconds_of(stats) == 180.0
