"""Teachers that follow the student, every so many optimizer steps."""

import abc
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from espnet_softpl.core.ranges import at_least
from espnet_softpl.teacher.frozen import FrozenTeacher


def _copy_integers(
    mine: Iterable[Tensor], theirs: Iterable[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """Copy what has no average, such as counters; return the rest in my precision."""
    old, new = [], []
    for my, their in zip(mine, theirs, strict=True):
        if my.is_floating_point():
            old.append(my)
            new.append(their.detach().to(my.dtype))
        else:
            my.copy_(their)
    return old, new


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _follow_finite(old: Sequence[Tensor], new: Sequence[Tensor], decay: float) -> None:
    """Average in place, but leave a value as it is if the new one is not finite."""
    # One tensor: a handful of operations whatever the number of layers, and no value
    # has to be waited for, as a decision in Python would.
    before, now = _flat(old), _flat(new)
    after = now if decay == 0.0 else torch.lerp(before, now, 1.0 - decay)
    after = torch.where(now.isfinite(), after, before)
    parts = after.split([tensor.numel() for tensor in old])
    shaped = [part.view_as(tensor) for tensor, part in zip(old, parts, strict=True)]
    torch._foreach_copy_(list(old), shaped)


@torch.no_grad()
def follow(
    teacher: torch.nn.Module,
    student: torch.nn.Module,
    decay: float = 0.0,
    average_buffers: bool = False,
) -> None:
    """Move a teacher toward the student: decay * teacher + (1 - decay) * student.

    Integer and other tensors that are not floating-point, such as batch norm's
    counters, are always copied. A value of a buffer that is not finite (batch-norm
    statistics after one bad batch; the weights themselves stay finite, as steps with
    such gradients are skipped) is not taken over: the teacher keeps its own.

    Args:
        teacher: The module to move, in float32; it is changed in place.
        student: A module of the same structure, in any precision; left as it is.
        decay: In [0, 1]; 0 copies the student.
        average_buffers: Whether floating-point buffers are averaged like the weights;
            else they are copied.
    """
    old, new = _copy_integers(teacher.parameters(), student.parameters())
    if old and decay == 0.0:
        torch._foreach_copy_(old, new)
    elif old:
        torch._foreach_lerp_(old, new, 1.0 - decay)
    old, new = _copy_integers(teacher.buffers(), student.buffers())
    if old:
        _follow_finite(old, new, decay if average_buffers else 0.0)


class FollowingTeacher(FrozenTeacher, abc.ABC):
    """The base of teachers that are moved every so many optimizer steps.

    Steps are counted from the first unlabeled mini-batch.

    Args:
        every_steps: Optimizer steps from one move to the next, at least 1.
        name: What the setting is called in YAML.
    """

    def __init__(self, every_steps: int, name: str = "every_steps") -> None:
        super().__init__()
        self.every_steps = at_least(name, every_steps, 1)
        self.steps_seen = 0
        self.updates = 0

    @abc.abstractmethod
    def move(self, teacher: torch.nn.Module, student: torch.nn.Module) -> None:
        """Change the copy that labels, in place; `updates` counts this move already."""

    def update(self, student: torch.nn.Module) -> None:
        """See `Teacher.update`; does nothing before the first unlabeled batch."""
        if self._copy is None:
            return
        self.steps_seen += 1
        if self.steps_seen % self.every_steps == 0:
            self.updates += 1
            self.move(self._copy, student)

    def state_dict(self) -> dict[str, Any]:
        """See `Teacher.state_dict`: the weights, optimizer steps and moves so far."""
        counters = {"steps_seen": self.steps_seen, "updates": self.updates}
        return {**super().state_dict(), **counters}

    def load_state_dict(self, state: dict[str, Any], student: torch.nn.Module) -> None:
        """See `Teacher.load_state_dict`."""
        super().load_state_dict(state, student)
        self.steps_seen, self.updates = state["steps_seen"], state["updates"]
