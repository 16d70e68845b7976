"""What a training says before its first mini-batch."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from espnet_softpl.training.announcement import announce, best_dev_cer
from espnet_softpl.training.config import PLConfig
from tests.training.test_config import parse

RUN = dict(mini_batches=1600, unlabeled_pass=100, utterances=960, hours=1.25)
ESPNET = dict(
    seed=1,
    optim="adam",
    optim_conf={"lr": 0.002},
    scheduler="warmuplr",
    scheduler_conf={"warmup_steps": 50},
    init_param=[],
)


def say(run: dict = RUN, **changes) -> dict[str, str]:
    """The announcement's rows by name."""
    config = PLConfig.from_args(parse(**{**ESPNET, **changes}))
    config.teacher.begin_run(config.schedule.updates(run["mini_batches"], 1))
    first, *lines = announce(config, **run).splitlines()
    assert first == "Pseudo-labeling is on"
    return {line[2:13].strip(): line[14:] for line in lines}


def save_epochs(exp_dir: Path, *rates: float) -> Path:
    stats = {
        epoch: {"valid": {"cer_ctc": np.float64(rate)}}
        for epoch, rate in enumerate(rates, 1)
    }
    exp_dir.mkdir()
    torch.save({"reporter": {"stats": stats}}, exp_dir / "checkpoint.pth")
    return exp_dir / "valid.cer_ctc.ave.pth"


def test_it_says_what_is_on_with_all_settings() -> None:
    rows = say(pl_criterion="soft_ctc", pl_criterion_conf={"nbest": 3})
    assert rows["criterion"] == "soft_ctc (nbest 3, temperature 1.0)"
    # A fifteenth of 400 updates.
    assert rows["teacher"].endswith("; a half-life of 27 updates")
    assert rows["filter"].startswith("tokens (min_tokens 1")
    assert rows["guard"].startswith("warn (")
    assert rows["run"] == "1600 mini-batches, 400 updates"
    assert rows["optimizer"] == (
        "adam, learning rate 0.002, warmuplr (warmup_steps 50)"
    )
    assert not {"cache", "shaping", "regularizer", "base model"} & rows.keys()


def test_passes_and_hours_of_the_unlabeled_audio() -> None:
    rows = say()  # Of 1600 mini-batches 1200 are unlabeled.
    assert rows["unlabeled"] == (
        "960 utterances, 1.25 h; a pass takes 100 mini-batches, the run makes "
        "12.0 passes"
    )
    rows = say({**RUN, "hours": math.nan}, pl_schedule_conf={"start_step": 800})
    assert rows["unlabeled"].startswith("960 utterances; a pass")
    assert rows["unlabeled"].endswith("makes 6.0 passes")
    assert "from mini-batch 800 on" in rows["schedule"]


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(pl_teacher="frozen"), "frozen"),
        (dict(pl_teacher_conf={"decay": 0.5, "every_steps": 3}), "of 3 updates"),
        (dict(pl_teacher_conf={"decay": 0.0}), "buffers copy)"),
    ],
)
def test_the_half_life_is_in_updates(changes, words) -> None:
    assert say(**changes)["teacher"].endswith(words)


def test_several_parts_have_their_own_settings() -> None:
    conf = {"rate": {"min_ratio": 0.4}}
    rows = say(pl_filter=["tokens", "rate"], pl_filter_conf=conf)
    tokens, rate = rows["filter"].split("; ")
    assert tokens.startswith("tokens (") and "min_ratio 0.4" in rate


def test_a_weak_base_model_makes_one_think_twice(tmp_path: Path) -> None:
    good = save_epochs(tmp_path / "good", 0.5, 0.21, 0.22)
    bad = save_epochs(tmp_path / "bad", 0.6, 0.4)
    assert best_dev_cer(good.parent) == 0.21
    words = say(init_param=[str(good)])["base model"]
    assert words == f"{good}; its best epoch has 21.0% dev CER (cer_ctc)"
    words = say(init_param=[f"{bad}:encoder:encoder"])["base model"]
    assert "40.0% dev CER" in words and "Think twice" in words
    words = say(init_param=[str(tmp_path / "model.pth")])["base model"]
    assert words.endswith("its dev CER is not known")
