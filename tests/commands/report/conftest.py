"""Tiny trainings to report on, made once per process."""

from __future__ import annotations

from pathlib import Path

import pytest
from espnet2.tasks.asr import ASRTask

from espnet_softpl.training.task import SoftPLTask
from tests.end_to_end.test_guard import OFF
from tests.support.espnet_runs import PL, Data, config, make_data, train

ALARMING = dict(
    reference_steps=1,
    window=1,
    patience=1,
    limits={**OFF, "pl_frame_entropy": {"highest": None, "above": 1e-6}},
)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def runs(data: Data, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A supervised run, and two with pseudo-labels: a cache, and an alarm."""
    root = tmp_path_factory.mktemp("exp")
    short = dict(max_epoch=2, num_iters_per_epoch=6)
    stock = config(**data.options(unlabeled=False), **short)
    everything = dict(pl_filter_conf={"min_tokens": 0}, **short)
    cached = {
        **everything,
        **dict(PL, pl_teacher="student", pl_teacher_conf={}),
        "pl_cache": "slimipl",
        "pl_cache_conf": {"size": 2, "probability": 0.5},
        "pl_samples": 20,
    }
    alarmed = {**everything, **PL, "pl_guard_conf": ALARMING, "pl_samples": 20}
    return {
        "stock": train(ASRTask, stock, root / "stock"),
        "cached": train(
            SoftPLTask, config(**data.options(), **cached), root / "cached"
        ),
        "alarmed": train(
            SoftPLTask, config(**data.options(), **alarmed), root / "alarmed"
        ),
    }
