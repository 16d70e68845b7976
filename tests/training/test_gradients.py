"""The log tells labeled from unlabeled gradients, and counts clipped updates."""

from __future__ import annotations

import logging
import math
import types

import pytest
import torch
from espnet2.train.reporter import SubReporter

from espnet_softpl.training.gradients import GradientLog
from espnet_softpl.training.resume.snapshot import Training

LABELED, UNLABELED = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])


def run(tmp_path, kinds: str, update_steps: int, clip: float = 1.0) -> GradientLog:
    """Train as ESPnet does on labeled (l) and unlabeled (u) mini-batches."""
    model = torch.nn.Linear(2, 1, bias=False)
    model.pl = types.SimpleNamespace(begun=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    reporter = SubReporter("train", 1, 0)
    training = Training(model, tmp_path, 1, (optimizer,), reporter=reporter)
    log = GradientLog(training, clip, update_steps)
    for number, kind in enumerate(kinds, 1):
        model.pl.begun |= kind == "u"
        slope = UNLABELED if kind == "u" else LABELED
        (model.weight @ slope).sum().div(update_steps).backward()
        reporter.register({"loss_pl": 1.0 if kind == "u" else math.nan}, 2)
        if number % update_steps == 0:
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            reporter.register({"grad_norm": norm})
            optimizer.step()
            optimizer.zero_grad()
        reporter.next()
        log.after_step()
    log.end_epoch()
    return log


@pytest.mark.parametrize("clip", [1.0, 100.0])
def test_the_parts_of_a_block(tmp_path, caplog, clip) -> None:
    caplog.set_level(logging.INFO)
    log = run(tmp_path, "luuluuluu", 3, clip)
    assert log.norms[False] == pytest.approx(5.0 / 3)
    assert log.norms[True] == pytest.approx(2.0 * 2 / 3)
    clipped = 3 if clip == 1.0 else 0
    first, last = caplog.messages
    assert first in last and f"1: {clipped} of 3 updates were clipped" in last
    assert "1.67 of the labeled, 1.33 of the unlabeled loss" in first


def test_updates_of_one_kind_are_told_apart_by_their_norms(tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO)
    log = run(tmp_path, "lulul", 1, clip=3.0)
    assert log.norms == {False: pytest.approx(5.0), True: pytest.approx(2.0)}
    assert "Epoch 1: 3 of 5 updates were clipped" in caplog.text


def test_without_unlabeled_mini_batches_nothing_is_measured(tmp_path, caplog) -> None:
    caplog.set_level(logging.INFO)
    assert not run(tmp_path, "llll", 2).norms
    assert "2 of 2 updates were clipped. The gradient of no update" in caplog.text
