"""Following the student: counters, values that are not finite, other structures."""

from __future__ import annotations

import math

import pytest
import torch

from espnet_softpl import teacher as teachers
from espnet_softpl.teacher.following import follow
from tests.support.teachers import Net


@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_pitfall_8_batch_norm_counters_are_copied(buffers) -> None:
    net, teacher = Net(), teachers.build("ema", decay=0.9, buffers=buffers)
    copy = teacher.module(net)
    for _ in range(3):
        net(torch.randn(8, 3))
    teacher.update(net)
    assert copy.norm.num_batches_tracked.item() == 3
    assert copy.norm.num_batches_tracked.dtype == torch.int64
    taken = torch.equal(copy.norm.running_mean, net.norm.running_mean)
    assert taken == (buffers == "copy")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name, conf, share",
    [
        ("ema", {"decay": 0.9}, 1.0),
        ("ema", {"decay": 0.75, "buffers": "average"}, 0.25),
        ("delayed", {"steps": 1}, 1.0),
    ],
)
def test_statistics_that_are_not_finite_are_not_taken_over(
    name, conf, share, bad
) -> None:
    net, teacher = Net(), teachers.build(name, **conf)
    copy = teacher.module(net)
    net.norm.running_var.copy_(torch.tensor([2.0, bad, 3.0]))
    teacher.update(net)
    wanted = 1.0 + share * torch.tensor([1.0, 0.0, 2.0])
    torch.testing.assert_close(copy.norm.running_var, wanted)
    assert copy(torch.randn(4, 3)).isfinite().all()
    net.norm.running_var.fill_(5.0)
    teacher.update(net)
    wanted = wanted + share * (5.0 - wanted)
    torch.testing.assert_close(copy.norm.running_var, wanted)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_constant_infinities_survive_an_average(decay) -> None:
    """An attention mask may be a buffer of -inf, whose difference is NaN."""
    net = Net()
    net.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    teacher = teachers.build("ema", decay=decay, buffers="average")
    copy = teacher.module(net)
    teacher.update(net)
    assert torch.equal(copy.mask, net.mask)


def test_follow_refuses_another_structure() -> None:
    student = Net()
    student.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="zip"):
        follow(teachers.frozen_copy(Net()), student, 0.5)
    empty = torch.nn.Identity()  # Nothing to follow, nothing to fail.
    follow(teachers.frozen_copy(empty), empty, 0.5)


def test_tensors_that_are_replaced_are_followed() -> None:
    """`to` and `load_state_dict` may put others in their places."""
    net, teacher = Net(), teachers.build("ema", decay=0.0)
    copy = teacher.module(net)
    teacher.update(net)
    net.norm.running_mean = torch.full((3,), 4.0)
    weight = next(iter(net.parameters()))
    weight.data = torch.full_like(weight, 5.0)
    teacher.update(net)
    assert copy.norm.running_mean.tolist() == [4.0] * 3
    assert (next(iter(copy.parameters())) == 5.0).all()
    state = teacher.state_dict()
    other = Net()
    teacher.load_state_dict(state, other)  # Another copy, of another student.
    teacher.update(other)
    assert teacher.module(other) is not copy
    for mine, theirs in zip(teacher.module(other).parameters(), other.parameters()):
        assert torch.equal(mine, theirs)


def test_a_shared_weight_is_averaged_once() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    net[1].weight = net[0].weight
    teacher = teachers.build("ema", decay=0.5)
    copy = teacher.module(net)
    before = copy[0].weight.clone()
    with torch.no_grad():
        net[0].weight.add_(1.0)
    teacher.update(net)
    torch.testing.assert_close(copy[1].weight, before + 0.5)
