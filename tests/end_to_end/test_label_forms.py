"""Decoders and intermediate layers on pseudo-labels, in ESPnet's own trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from espnet_softpl.training.task import SoftPLTask
from tests.end_to_end.test_distributed import run_well, states
from tests.end_to_end.test_training import compare_runs, reported
from tests.support.espnet_runs import HYBRID, PL, Data, config, load, make_data, train

BOTH = dict(
    HYBRID,
    model_conf=dict(ctc_weight=0.3, interctc_weight=0.3, lsm_weight=0.1),
    encoder_conf=dict(
        config()["encoder_conf"],
        num_blocks=2,
        interctc_layer_idx=[1],
        interctc_use_conditioning=True,
    ),
    pl_decoder="forced_soft",
    pl_interctc="own",
)
# An untrained teacher may say nothing; such labels would be left out.
ALL = dict(pl_filter_conf=dict(min_tokens=0))
CACHE = dict(
    pl_teacher="student",
    pl_teacher_conf={},
    pl_cache="slimipl",
    pl_cache_conf={"size": 2, "probability": 0.5, "memory_limit_mb": 0.0},
)
FORCED = dict(pl_criterion="hard_ctc", pl_decoder="forced", pl_interctc="last")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


def forms_config(data: Data, **changes) -> dict:
    options = {**data.options(), **PL, **BOTH, **ALL, "pl_criterion": "soft_ce"}
    return config(**{**options, **changes})


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{}, CACHE, dict(CACHE, **FORCED)], ids=["ema", "soft-cache", "cache"]
)
def test_resume_is_exact(data, tmp_path, changes) -> None:
    options = forms_config(data, max_epoch=3, **changes)
    whole = train(SoftPLTask, options, tmp_path / "whole")
    parts = train(SoftPLTask, options, tmp_path / "parts", "--max_epoch", "1")
    train(SoftPLTask, options, parts, "--resume", "true")
    compare_runs(whole, parts, epochs=3)
    for key in ("loss_pl_ctc", "loss_pl_interctc", "loss_pl_decoder"):
        assert np.isfinite(reported(whole, key)), key
    assert 0.0 <= reported(whole, "pl_decoder_disagreement") <= 1.0


def test_a_cache_of_other_forms_is_not_resumed(data, tmp_path, capsys) -> None:
    options = forms_config(data, max_epoch=1, **CACHE)
    exp = train(SoftPLTask, options, tmp_path / "exp")
    change = ("--pl_decoder", "forced", "--max_epoch", "2", "--resume", "true")
    allow = ("--pl_allow_changed_resume", "true")
    for more, said in (
        ((), 'pl_decoder: "forced_soft" -> "forced"'),
        (allow, "pl_decoder: 'forced_soft', 'forced'"),  # The cache cannot.
    ):
        with pytest.raises(SystemExit) as stop:
            train(SoftPLTask, options, exp, *change, *more)
        assert stop.value.code == 2
        error = capsys.readouterr().err
        assert "cannot resume" in error and said in error


@pytest.mark.parametrize(
    "target, trains", [("none", False), ("transcript", True), ("forced", True)]
)
def test_what_the_decoder_learns_is_chosen(data, tmp_path, target, trains) -> None:
    schedule = dict(form="interleaved", labeled_steps=0, unlabeled_steps=1)
    changes = dict(pl_decoder=target, pl_schedule_conf=schedule)
    exp = train(SoftPLTask, forms_config(data, **changes), tmp_path / "exp")
    first, last = load(exp / "1epoch.pth"), load(exp / "2epoch.pth")
    moved = {
        key.split(".")[0]
        for key in first
        if "weight" in key and not torch.equal(first[key], last[key])
    }
    assert ("decoder" in moved) == trains
    assert {"encoder", "ctc"} <= moved
    written = yaml.safe_load((exp / "config.yaml").read_text())
    assert written["unused_parameters"] and written["pl_decoder"] == target


def test_a_target_that_the_model_has_not_is_refused(data, tmp_path, capsys) -> None:
    for change, message in (
        (dict(model_conf=dict(ctc_weight=1.0)), "pl_decoder: 'forced_soft' needs"),
        (dict(encoder_conf=config()["encoder_conf"]), "pl_interctc: 'own' needs"),
    ):
        out = tmp_path / "exp"
        with pytest.raises(SystemExit) as stop:
            train(SoftPLTask, forms_config(data, **change), out)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err
        assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["forced_soft", "none"])
def test_two_processes(data, tmp_path: Path, decoder: str) -> None:
    """Branches that some steps leave without gradient hold up neither of two."""
    options = forms_config(data, pl_decoder=decoder, **CACHE)
    out = run_well(options, tmp_path / "exp")
    both = states(out, 2)
    assert all(state["cache"]["counts"]["made"] > 0 for state in both)
    stats = load(out / "checkpoint.pth")["reporter"]["stats"][2]["train"]
    keys = ["loss", "loss_pl_ctc", "loss_pl_interctc"]
    keys += ["loss_pl_decoder"] if decoder != "none" else []
    for key in keys:
        assert 0.0 < stats[key] < np.inf, key
