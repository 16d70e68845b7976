"""An update counts only if something was learned."""

from __future__ import annotations

import math

import pytest
import torch
from espnet2.train.reporter import SubReporter

from espnet_softpl.training.resume.snapshot import Training
from espnet_softpl.training.updates import only_taught, teaches


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
    with only_taught(training, 1):
        for parameter in training.model.parameters():
            parameter.grad = torch.ones_like(parameter)
        weights = training.model.weight.clone()
        optimizer.step()
        scheduler.step()
        assert torch.equal(training.model.weight, weights)
        assert scheduler.last_epoch == 0
    assert (vars(optimizer).get("step"), set(scheduler.state_dict())) == before
