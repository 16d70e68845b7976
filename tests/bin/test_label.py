"""The command `label`: what it refuses."""

from __future__ import annotations

import pytest
import torch

from tests.support.labeling import (
    check_refusal,
)


@pytest.mark.parametrize(
    "more, message",
    [
        (["--pl_filter", "token"], "unknown filter 'token'. Did you mean 'tokens'"),
        (
            ["--pl_filter", "rate", "--pl_filter_conf", "min_ratio=0.5"],
            "pl_filter: rate as it is set learns from the labeled",
        ),
        (
            ["--pl_filter", "confidence", "--pl_filter_conf", "max_error=0.1"],
            "pl_filter: confidence as it is set learns from the labeled",
        ),
        (["--pl_filter", "confidence"], "exactly one of threshold and max_error"),
        (["--which", "teacher"], "trained without pseudo-labels"),
        (["--batch_bins", 0], "0 is not at least 1"),
        (["--num_workers", -1], "--num_workers: -1 is not at least 0"),
        (["--pl_max_bad_share", 2], r"2 is not in \[0, 1\]"),
        (["--ngpu", 2], "invalid choice: 2"),
        (["--wav_scp", "gone.scp"], "gone.scp does not exist"),
        (["--asr_exp", "gone"], "--asr_exp: gone does not exist"),
    ],
)
def test_what_cannot_work_is_refused(
    data, base_model, tmp_path, more, message, capsys
) -> None:
    scp, out = data.path("unlabeled", "wav.scp"), tmp_path / "out"
    check_refusal(base_model, scp, out, more, message, capsys)
    assert not out.exists()


def test_a_gpu_that_is_not_there(data, base_model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    scp = data.path("unlabeled", "wav.scp")
    message = "torch finds no GPU"
    check_refusal(base_model, scp, tmp_path / "out", ["--ngpu", 1], message, capsys)
