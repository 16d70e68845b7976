"""The average: by hand, in float32, and the ways to give its decay."""

from __future__ import annotations

import pytest
import torch

from espnet_softpl import teacher as teachers
from tests.support.teachers import Net, assert_close, student_in, trained, trajectory
from tests.teacher.test_base import STEPS


def ema_by_hand(
    states: list[dict[str, torch.Tensor]],
    decays: list[float],
    average_buffers: bool,
) -> dict[str, torch.Tensor]:
    """Average float64 states one after the other, as plainly as possible."""
    result = dict(states[0])
    for state, decay in zip(states[1:], decays, strict=True):
        for name, value in state.items():
            averaged = name.startswith("body") or name in ("norm.weight", "norm.bias")
            if average_buffers and name in ("norm.running_mean", "norm.running_var"):
                averaged = True
            if averaged:
                value = decay * result[name] + (1.0 - decay) * value
            result[name] = value
    return result


@pytest.mark.parametrize("buffers", ["copy", "average"])
@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("every_steps", [1, 3])
def test_ema_is_the_average_by_hand(buffers, warmup, every_steps) -> None:
    states = trajectory(STEPS)
    teacher = teachers.build(
        "ema", decay=0.8, buffers=buffers, warmup=warmup, every_steps=every_steps
    )
    copy = teacher.module(student_in(states[0]))
    for step in range(1, STEPS + 1):
        teacher.update(student_in(states[step]))
        taken = states[every_steps : step + 1 : every_steps]
        decays = [0.8] * len(taken)
        if warmup:
            decays = [min(0.8, (1 + n) / (10 + n)) for n in range(1, len(taken) + 1)]
        wanted = ema_by_hand([states[0], *taken], decays, buffers == "average")
        assert_close(copy, wanted)
    assert teacher.updates == STEPS // every_steps
    assert teacher.module(Net()) is copy


def test_warmup_reaches_the_decay_and_stays_there() -> None:
    teacher = teachers.build("ema", decay=0.9, warmup=True)
    assert teacher.decay_at(1) == 2 / 11
    assert teacher.decay_at(79) < 0.9 == teacher.decay_at(81)
    assert teachers.build("ema", decay=0.1, warmup=True).decay_at(1) == 0.1


def test_pitfall_2_the_average_is_written_back() -> None:
    """A public code rebinds a local variable: its teacher never moves."""
    net, teacher = Net(), teachers.build("ema", decay=0.5)
    module, x = teacher.module(net), torch.randn(4, 3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    labels = module(x)
    trained(net, torch.optim.SGD(net.parameters(), lr=0.5))
    teacher.update(net)
    assert teacher.module(net) is module
    for name, parameter in module.named_parameters():
        assert not torch.equal(parameter, before[name])
    assert not torch.allclose(module(x), labels)
    saved = teacher.state_dict()["model"]["body.weight"]
    assert torch.equal(saved, module.body.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pitfall_7_increments_below_half_precision_are_not_lost(dtype) -> None:
    """One unit of the student's precision away, a thousandth of it per step."""
    net, teacher = Net().to(dtype), teachers.build("ema", decay=0.999)
    with torch.no_grad():
        net.body.weight.fill_(1.0)
    copy = teacher.module(net)
    ulp = torch.finfo(dtype).eps
    with torch.no_grad():
        net.body.weight.fill_(1.0 + ulp)
    for _ in range(500):
        teacher.update(net)
    assert copy.body.weight.dtype == torch.float32
    # What an average kept in the student's precision would do: nothing.
    assert (
        torch.lerp(torch.tensor(1.0, dtype=dtype), net.body.weight, 0.001).eq(1).all()
    )
    moved = (copy.body.weight - 1.0) / ulp
    wanted = torch.full_like(moved, 1.0 - 0.999**500)
    torch.testing.assert_close(moved, wanted, rtol=0.02, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_the_average_is_float32_whatever_the_student_is(dtype, buffers) -> None:
    net = Net().to(dtype)
    teacher = teachers.build("ema", decay=0.999, buffers=buffers)
    copy = teacher.module(net)
    before = copy.body.weight.clone()
    with torch.no_grad():
        net.body.weight += 0.125
    teacher.update(net)
    floating = [t for t in copy.state_dict().values() if t.is_floating_point()]
    assert all(tensor.dtype == torch.float32 for tensor in floating)
    step = (copy.body.weight - before) / 0.125
    torch.testing.assert_close(step, torch.full_like(step, 0.001), rtol=0.05, atol=0)


def test_ways_to_give_the_decay() -> None:
    def decay(**conf: float) -> float:
        return teachers.build("ema", **conf).decay

    assert decay() is None
    assert decay(half_life_steps=10) ** 10 == pytest.approx(0.5)
    # Steps are steps, also where only every fourth one updates.
    assert decay(half_life_steps=20, every_steps=4) ** 5 == pytest.approx(0.5)
    assert decay(retention=0.3, steps_per_epoch=50) ** 50 == pytest.approx(0.3)
    slow = decay(retention=0.3, steps_per_epoch=48, every_steps=4)
    assert slow**12 == pytest.approx(0.3)
    assert decay(retention=1.0, steps_per_epoch=7) == 1.0
    assert decay(decay=0.5, every_steps=4) == 0.5


@pytest.mark.parametrize("every_steps", [1, 4])
def test_the_default_half_life_is_a_share_of_the_run(every_steps) -> None:
    teacher = teachers.build("ema", every_steps=every_steps)
    with pytest.raises(RuntimeError, match="begin_run"):
        teacher.decay_at(1)
    for steps, half_life in ((1500, 100), (600, 40), (3, 1)):
        teacher.begin_run(steps)
        assert teacher.decay_at(9) ** (half_life / every_steps) == pytest.approx(0.5)
    given = teachers.build("ema", decay=0.9)
    given.begin_run(1500)
    assert given.decay == 0.9


def test_retention_is_the_share_of_the_old_teacher_after_an_epoch() -> None:
    net = Net()
    teacher = teachers.build("ema", retention=0.5, steps_per_epoch=30)
    copy = teacher.module(net)
    start = copy.body.weight.clone()
    with torch.no_grad():
        net.body.weight += 1.0
    for _ in range(30):
        teacher.update(net)
    torch.testing.assert_close(copy.body.weight, start + 0.5, rtol=0, atol=1e-5)


def test_limits_of_the_decay() -> None:
    for decay, follows in ((0.0, True), (1.0, False)):
        net, teacher = Net(), teachers.build("ema", decay=decay)
        copy = teacher.module(net)
        start = copy.body.weight.clone()
        trained(net, torch.optim.SGD(net.parameters(), lr=0.5))
        teacher.update(net)
        expected = net.body.weight if follows else start
        assert torch.equal(copy.body.weight, expected)


def test_frozen_and_tied_parameters() -> None:
    net = Net()
    net.head = torch.nn.Linear(3, 3)
    net.head.weight = net.body.weight
    net.norm.weight.requires_grad_(False)
    teacher = teachers.build("ema", decay=0.5)
    copy = teacher.module(net)
    start = copy.body.weight.clone()
    with torch.no_grad():
        net.body.weight += 1.0
    teacher.update(net)
    assert copy.head.weight is copy.body.weight
    torch.testing.assert_close(copy.head.weight, start + 0.5)
    assert torch.equal(copy.norm.weight, net.norm.weight)
    assert not net.norm.weight.requires_grad and net.body.weight.requires_grad
