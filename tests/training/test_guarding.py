"""What the guard's alarms do to a training, step by step."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from espnet2.train.reporter import SubReporter

from espnet_softpl.core.errors import CollapseError
from espnet_softpl.monitors.guard import MONITORS, Guard
from espnet_softpl.training import guarding
from espnet_softpl.training.resume.snapshot import Training
from tests.training.test_model import make_model

LIMIT = {"pl_frame_entropy": {"above": 1.0}}


def build(output_dir: Path, action: str, **conf) -> Training:
    """A training in its second epoch, with a guard that judges each step."""
    model = make_model()
    once = dict(reference_steps=1, window=1, patience=1, limits=LIMIT)
    model.pl.guard = Guard(action, **{**once, **conf})
    model.pl.last_batch = (["a"], model.pl.generator(model, *speech()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reporter = SubReporter("train", 2, 0)
    return Training(model, output_dir, 2, [optimizer], [None], None, reporter)


def speech() -> tuple[torch.Tensor, torch.Tensor]:
    return 0.1 * torch.randn(1, 9000), torch.tensor([9000])


def report(training: Training, entropy: float) -> None:
    """Report a step's monitors, as ESPnet's trainer does, and consult the guard."""
    values = dict.fromkeys(MONITORS, math.nan) | {"pl_frame_entropy": entropy}
    training.reporter.register(values)
    training.reporter.next()
    guarding.consult_guard(training)


def test_latest_monitors_are_those_of_the_latest_step(tmp_path) -> None:
    training = build(tmp_path, "warn")
    assert all(map(math.isnan, guarding.latest_monitors(training.reporter).values()))
    for entropy in (0.25, 0.5):
        report(training, entropy)
    latest = guarding.latest_monitors(training.reporter)
    assert list(latest) == list(MONITORS)
    assert latest["pl_frame_entropy"] == 0.5


def test_a_labeled_step_is_not_shown_to_the_guard(tmp_path) -> None:
    training = build(tmp_path, "warn")
    for entropy in (0.5, math.nan):
        report(training, entropy)
    assert len(training.model.pl.guard.history()[0]) == 1


def test_a_warning_is_reported_and_a_stop_ends(tmp_path, caplog) -> None:
    training = build(tmp_path / "warn", "warn")
    for entropy in (0.5, 2.0):
        report(training, entropy)
    assert len(list((tmp_path / "warn" / guarding.REPORT_DIR).iterdir())) == 1
    training = build(tmp_path / "stop", "stop")
    report(training, 0.5)
    with pytest.raises(CollapseError, match="training is stopped"):
        report(training, 2.0)


@pytest.mark.slow
def test_a_back_off_returns_to_the_healthy_epoch(tmp_path, caplog) -> None:
    training = build(tmp_path, "back_off", max_back_offs=1)
    guarding.keep_healthy(training)
    model = training.model
    assert model.pl.healthy_epoch == 1  # The one before that in training.
    before = {key: value.clone() for key, value in model.state_dict().items()}
    report(training, 0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    report(training, 2.0)
    assert all(torch.equal(value, before[k]) for k, value in model.state_dict().items())
    assert "the model is that of the end of epoch 1 again" in caplog.text
    assert model.pl.guard.weight_factor == 0.5
    with pytest.raises(CollapseError):  # No use in another.
        report(training, 2.0)


def test_an_epoch_that_is_not_healthy_is_not_kept(tmp_path) -> None:
    training = build(tmp_path, "back_off", patience=9)
    guarding.keep_healthy(training)
    for entropy in (0.5, 2.0):
        report(training, entropy)
    training.epoch = 3
    guarding.keep_healthy(training)
    assert training.model.pl.healthy_epoch == 1
    for action in ("warn", "stop"):
        other = build(tmp_path / action, action)
        guarding.keep_healthy(other)
        assert not (tmp_path / action).exists()
