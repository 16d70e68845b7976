"""Experiments that are exported and labeled with, trained once per process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from espnet2.tasks.asr import ASRTask

from espnet_softpl.training.task import SoftPLTask
from tests.support.espnet_runs import (
    PL,
    Data,
    config,
    make_data,
    train,
)
from tests.support.exported import write_stats


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def run(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished experiment with a teacher that is not its student."""
    root = tmp_path_factory.mktemp("run")
    stats = write_stats(root / "stats" / "feats_stats.npz")
    options = config(
        **data.options(),
        **PL,
        normalize="global_mvn",
        normalize_conf={"stats_file": str(stats)},
        optim_conf={"lr": 0.01},
        max_epoch=3,
    )
    return train(SoftPLTask, options, root / "exp" / "pl")


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(run, tmp_path / "pl", symlinks=True))


BASE = dict(num_iters_per_epoch=80, optim_conf=dict(lr=0.01), max_epoch=2)


@pytest.fixture(scope="session")
def base_model(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock experiment that says something about most audio."""
    out = tmp_path_factory.mktemp("base") / "exp"
    return train(ASRTask, config(**data.options(unlabeled=False), **BASE), out)
