"""Curves from the state of ESPnet's reporter."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch

from espnet_softpl.commands.report.history import read_history, seconds_of
from espnet_softpl.training.resume.layout import read_statistics
from tests.support.espnet_runs import load
from tests.support.report_pages import copy


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
