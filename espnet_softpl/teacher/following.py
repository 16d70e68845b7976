"""Teachers that follow the student, every so many optimizer steps."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from espnet_softpl.core.ranges import at_least
from espnet_softpl.teacher.frozen import FrozenTeacher

# A tensor of a teacher and of its student: each the dictionary of a part, and the name.
Place = tuple[Mapping[str, Tensor | None], Mapping[str, Tensor | None], str]


class Pairs:
    """Where the tensors of a teacher and of its student are.

    To look for them takes several times as long as to average them, so it is done once.
    They may be replaced by others, as by `to`, but not be more or fewer.

    Args:
        teacher: The module to move.
        student: A module of the same structure.

    Raises:
        ValueError: It is of another structure.
    """

    def __init__(self, teacher: torch.nn.Module, student: torch.nn.Module) -> None:
        self.teacher, self.student = teacher, student
        self.parameters = self._list("_parameters")
        self.buffers = self._list("_buffers")

    def _list(self, kind: str) -> list[Place]:
        places, seen = [], set()
        parts = zip(self.teacher.modules(), self.student.modules(), strict=True)
        for mine, theirs in ((vars(a)[kind], vars(b)[kind]) for a, b in parts):
            if mine.keys() != theirs.keys():
                raise ValueError("teacher and student differ in structure")
            for name, tensor in mine.items():
                if tensor is not None and id(tensor) not in seen:
                    seen.add(id(tensor))  # Parts may share it.
                    places.append((mine, theirs, name))
        return places


def _copy_integers(places: Sequence[Place]) -> tuple[list[Tensor], list[Tensor]]:
    """Copy what has no average, such as counters; return the rest in my precision."""
    old, new = [], []
    for mine, theirs, name in places:
        my, their = mine[name], theirs[name]
        if my.is_floating_point():
            old.append(my)
            new.append(their if their.dtype == my.dtype else their.to(my.dtype))
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
    pairs: Pairs | None = None,
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
        pairs: Theirs, if they have been found.

    Raises:
        ValueError: They are of different structures.
    """
    pairs = Pairs(teacher, student) if pairs is None else pairs
    old, new = _copy_integers(pairs.parameters)
    if old and decay == 0.0:
        torch._foreach_copy_(old, new)
    elif old:
        torch._foreach_lerp_(old, new, 1.0 - decay)
    old, new = _copy_integers(pairs.buffers)
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
        self._pairs: Pairs | None = None

    @abc.abstractmethod
    def move(self, teacher: torch.nn.Module, student: torch.nn.Module) -> None:
        """Change the copy that labels, in place; `updates` counts this move already."""

    def pairs(self, teacher: torch.nn.Module, student: torch.nn.Module) -> Pairs:
        """Return their tensors, looked for when they are first asked for."""
        known = self._pairs
        if (
            known is None
            or known.teacher is not teacher
            or known.student is not student
        ):
            self._pairs = known = Pairs(teacher, student)
        return known

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
