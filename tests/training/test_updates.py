"""An update counts only if something was learned."""

from __future__ import annotations

import logging
import math
import types

import pytest
import torch
from espnet2.train.reporter import SubReporter

from espnet_softpl.training.resume.snapshot import Training
from espnet_softpl.training.updates import GradientLog, only_taught, teaches


def training_after(tmp_path, *batches: tuple[float, float]) -> Training:
    """Report mini-batches: the share of labels kept, and the weight."""
    reporter = SubReporter("train", 1, 0)
    for kept, weight in batches:
        reporter.register({"pl_kept": kept, "pl_weight": weight}, 4)
        reporter.next()
    return Training(torch.nn.Linear(1, 1), tmp_path, 1, reporter=reporter)


LABELED, KEPT, DROPPED, OFF = (math.nan, math.nan), (0.5, 1.0), (0.0, 1.0), (0.5, 0.0)


@pytest.mark.parametrize(
    ("batches", "steps", "taught"),
    [
        ([LABELED], 1, True),
        ([KEPT], 1, True),
        ([DROPPED], 1, False),
        ([OFF], 1, False),
        ([KEPT, DROPPED], 1, False),
        ([KEPT, DROPPED], 2, True),
        ([LABELED, DROPPED], 2, True),
        ([], 1, True),
    ],
)
def test_what_teaches(tmp_path, batches, steps, taught) -> None:
    assert teaches(training_after(tmp_path, *batches), steps) == taught


def test_optimizers_and_schedulers_are_as_before(tmp_path) -> None:
    training = training_after(tmp_path, DROPPED)
    optimizer = torch.optim.SGD(training.model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
    training.optimizers, training.schedulers = (optimizer,), (scheduler, None)
    before = vars(optimizer).get("step"), set(scheduler.state_dict())
    training.reporter.register({"grad_norm": 1.0})
    with only_taught(training, 1):
        for parameter in training.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        weights = training.model.weight.clone()
        optimizer.step()
        scheduler.step()
        assert torch.equal(training.model.weight, weights)
        assert scheduler.last_epoch == 0
    assert (vars(optimizer).get("step"), set(scheduler.state_dict())) == before


@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_that_is_not_finite_is_no_step_to_a_fused_optimizer(
    tmp_path, fused
) -> None:
    """In mixed precision torch calls it, and its kernel changes nothing."""
    model, steps = torch.nn.Linear(1, 1), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    optimizer.register_step_post_hook(lambda *_: steps.append(reporter.count))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    reporter = SubReporter("train", 1, 0)
    training = Training(model, tmp_path, 1, (optimizer,), reporter=reporter)
    with only_taught(training, 1):
        for factor in (1.0, math.inf, 1.0, math.inf):
            loss = factor * model(torch.ones(1, 1)).sum()
            reporter.register({"loss": loss.detach()}, 1)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            if norm.isfinite():
                reporter.register({"grad_norm": norm})
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            reporter.next()
    assert steps == [1, 3] and scaler.get_scale() == 1.0


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
