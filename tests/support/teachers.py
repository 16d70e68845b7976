"""A small student, its way through a training, and comparisons of modules."""

from __future__ import annotations

import io
from typing import Any

import torch

from espnet_softpl import teacher as teachers


class Epochs:
    """Finished epochs, as the trainer knows them, and which files were read."""

    def __init__(self, states: list[dict[str, torch.Tensor]], values: list[float]):
        self.states = [student_in(state).state_dict() for state in states]
        self.values = values
        self.read_epochs: list[int] = []

    def read(self, epoch: int) -> dict[str, torch.Tensor]:
        """Return the model of an epoch, counted from 1."""
        self.read_epochs.append(epoch)
        return self.states[epoch - 1]

    def begin(self, teacher: teachers.Teacher, student: Net, epoch: int) -> None:
        """Begin an epoch: all before it are finished."""
        finished = list(enumerate(self.values[: epoch - 1], start=1))
        teacher.begin_epoch(student, finished, self.read)


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


def snapshot(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copy a module's state, in float64 where it is floating-point."""
    return {
        name: value.double() if value.is_floating_point() else value.clone()
        for name, value in net.state_dict().items()
    }


def trajectory(steps: int) -> list[dict[str, torch.Tensor]]:
    """Train a student; return its state before the first and after each step."""
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    states = [snapshot(net)]
    for _ in range(steps):
        trained(net, optimizer)
        states.append(snapshot(net))
    return states


def student_in(state: dict[str, torch.Tensor]) -> Net:
    """Build the student that has a state."""
    net = Net()
    net.load_state_dict(state)
    return net


def assert_close(module: torch.nn.Module, wanted: dict[str, torch.Tensor]) -> None:
    """Compare a float32 module to a state computed in float64."""
    state = module.state_dict()
    assert state.keys() == wanted.keys()
    for name, value in wanted.items():
        dtype = torch.float32 if value.is_floating_point() else value.dtype
        assert state[name].dtype == dtype
        torch.testing.assert_close(state[name], value.to(dtype), rtol=1e-5, atol=1e-6)


def assert_same(one: torch.nn.Module, two: torch.nn.Module) -> None:
    """Compare two modules bit for bit."""
    mine, theirs = one.state_dict(), two.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def by_save(state: Any) -> Any:
    """Write a state to a file and read it as a resumed run does."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)
