"""Teachers: who follows whom, in which mode and precision."""

import pytest
import torch

from espnet_softpl import teacher as teachers
from espnet_softpl.teacher import evaluating


class Net(torch.nn.Module):
    """A student with batch norm, dropout and a cached graph tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(3, 3)
        self.norm = torch.nn.BatchNorm1d(3)
        self.drop = torch.nn.Dropout(0.5)
        self.last = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the result, as ESPnet's attention keeps its weights."""
        self.last = self.drop(self.norm(self.body(x)))
        return self.last


def trained(net: Net, optimizer: torch.optim.Optimizer) -> None:
    net(torch.randn(8, 3)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def test_ema_is_the_average_by_hand() -> None:
    net, teacher = Net(), teachers.build("ema", decay=0.9)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    expected = net.body.weight.detach().clone()
    copy = teacher.module(net)
    for _ in range(5):
        trained(net, optimizer)
        teacher.update(net)
        expected = 0.9 * expected + 0.1 * net.body.weight.detach()
    torch.testing.assert_close(copy.body.weight, expected)
    assert not torch.equal(copy.body.weight, net.body.weight)


def test_batch_norm_buffers_are_copied_counters_included() -> None:
    net, teacher = Net(), teachers.build("ema", decay=0.9)
    copy = teacher.module(net)
    for _ in range(3):
        net(torch.randn(8, 3))
    teacher.update(net)
    assert torch.equal(copy.norm.running_mean, net.norm.running_mean)
    assert copy.norm.num_batches_tracked.item() == 3
    assert copy.norm.num_batches_tracked.dtype == torch.int64


def test_birth_in_the_middle_of_training() -> None:
    """Regression: modules that keep a graph tensor could not be copied."""
    net, teacher = Net(), teachers.build("ema")
    net(torch.randn(8, 3)).sum().backward(retain_graph=True)
    teacher.update(net)  # before its birth there is nothing to update
    copy = teacher.module(net)
    assert torch.equal(copy.body.weight, net.body.weight)
    assert all(p.grad is None and not p.requires_grad for p in copy.parameters())
    assert not copy.training and copy.last is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_average_is_float32_whatever_the_student_is(dtype) -> None:
    net, teacher = Net().to(dtype), teachers.build("ema", decay=0.999)
    copy = teacher.module(net)
    before = copy.body.weight.clone()
    with torch.no_grad():
        net.body.weight += 0.125
    teacher.update(net)
    assert copy.body.weight.dtype == torch.float32
    step = (copy.body.weight - before) / 0.125
    torch.testing.assert_close(step, torch.full_like(step, 0.001), rtol=0.05, atol=0)


def test_half_life() -> None:
    assert teachers.build("ema", half_life_steps=10).decay ** 10 == pytest.approx(0.5)
    assert teachers.build("ema").decay == 0.999


def test_limits_of_the_decay() -> None:
    for decay, follows in ((0.0, True), (1.0, False)):
        net, teacher = Net(), teachers.build("ema", decay=decay)
        copy = teacher.module(net)
        start = copy.body.weight.clone()
        trained(net, torch.optim.SGD(net.parameters(), lr=0.5))
        teacher.update(net)
        expected = net.body.weight if follows else start
        assert torch.equal(copy.body.weight, expected)


def test_frozen_never_moves_and_student_is_the_student() -> None:
    net, frozen = Net(), teachers.build("frozen")
    copy, start = frozen.module(net), net.body.weight.detach().clone()
    trained(net, torch.optim.SGD(net.parameters(), lr=0.5))
    frozen.update(net)
    assert torch.equal(frozen.module(net).body.weight, start)
    assert frozen.module(net) is copy
    assert teachers.build("student").module(net) is net


@pytest.mark.parametrize("name", ["ema", "frozen", "student"])
def test_state_survives_saving(name, tmp_path) -> None:
    net, teacher = Net(), teachers.build(name)
    teacher.module(net)
    with torch.no_grad():
        net.body.weight += 1.0
    teacher.update(net)
    torch.save(teacher.state_dict(), tmp_path / "state.pth")
    restored = teachers.build(name)
    state = torch.load(tmp_path / "state.pth", weights_only=True)
    restored.load_state_dict(state, net)
    mine, theirs = teacher.module(net), restored.module(net)
    for key, value in mine.state_dict().items():
        assert torch.equal(value, theirs.state_dict()[key])


def test_state_before_birth() -> None:
    teacher, net = teachers.build("ema"), Net()
    restored = teachers.build("ema")
    restored.module(Net())
    restored.load_state_dict(teacher.state_dict(), net)
    assert not restored.born


def test_evaluating_restores_every_part() -> None:
    net = Net()
    net.norm.eval()  # a part that its owner keeps in eval mode
    with evaluating(net):
        assert not any(part.training for part in net.modules())
    assert net.training and net.drop.training and not net.norm.training


@pytest.mark.parametrize(
    "name, conf, message",
    [
        ("emma", {}, "unknown teacher"),
        ("ema", {"decay": 1.5}, "decay"),
        ("ema", {"half_life_steps": 0}, "half_life_steps"),
        ("ema", {"decay": 0.9, "half_life_steps": 5}, "not both"),
        ("ema", {"momentum": 0.9}, "unknown key"),
        ("student", {"decay": 0.9}, "unknown key"),
    ],
)
def test_bad_settings_are_refused(name, conf, message) -> None:
    with pytest.raises(ValueError, match=message):
        teachers.build(name, **conf)
