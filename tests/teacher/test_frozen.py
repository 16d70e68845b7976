"""A copy of the student: when it is made, that it stays, and its state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from espnet_softpl import teacher as teachers
from espnet_softpl.core.errors import UserError
from tests.support.teachers import Net, trained


def test_the_copy_is_made_in_the_middle_of_training() -> None:
    """Regression: modules that keep a graph tensor could not be copied."""
    net, teacher = Net(), teachers.build("ema")
    net(torch.randn(8, 3)).sum().backward(retain_graph=True)
    teacher.update(net)  # before the copy there is nothing to update
    assert teacher.steps_seen == teacher.updates == 0
    copy = teacher.module(net)
    assert torch.equal(copy.body.weight, net.body.weight)
    assert all(p.grad is None and not p.requires_grad for p in copy.parameters())
    assert not any(part.training for part in copy.modules()) and copy.last is None
    assert net.training and net.last is not None


def test_frozen_never_moves_and_student_is_the_student() -> None:
    net, frozen = Net(), teachers.build("frozen")
    copy, start = frozen.module(net), net.body.weight.detach().clone()
    trained(net, torch.optim.SGD(net.parameters(), lr=0.5))
    frozen.update(net)
    assert torch.equal(frozen.module(net).body.weight, start)
    assert frozen.module(net) is copy
    assert teachers.build("student").module(net) is net


def test_state_before_the_copy() -> None:
    teacher, net = teachers.build("ema"), Net()
    assert teacher.state_dict()["model"] is None
    restored = teachers.build("ema")
    restored.module(Net())
    restored.load_state_dict(teacher.state_dict(), net)
    assert restored.state_dict()["model"] is None


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.pop("norm.bias"), r"1 missing \(norm.bias\)"),
        (lambda w: w.update(extra=torch.ones(1)), r"1 unknown \(extra\)"),
        (
            lambda w: w.update({"body.weight": torch.ones(3, 4)}),
            r"1 of another shape \(body.weight\)",
        ),
    ],
)
def test_the_state_of_another_model_is_refused(
    change: Callable[[dict], Any], message: str
) -> None:
    net, teacher = Net(), teachers.build("ema")
    state = teachers.build("ema").state_dict()
    state["model"] = dict(Net().state_dict())
    change(state["model"])
    with pytest.raises(UserError, match=message):
        teacher.load_state_dict(state, net)
    assert teacher.state_dict()["model"] is None
