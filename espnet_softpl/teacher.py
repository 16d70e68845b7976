"""Who labels: an exponential moving average, the live student, or a frozen copy.

A teacher that keeps weights of its own is born at the first unlabeled mini-batch, as
a copy of the student at that moment: of the seed model where pseudo-labeling starts at
once, of the warmed-up model where it starts later. It is in float32 and in eval mode,
and lives outside the student's `parameters()` and `state_dict()`.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from typing import Any

import torch

from espnet_softpl.registry import build_from_conf


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Put a module in eval mode, and every part of it back as it was afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield module
    finally:
        for part, training in modes:
            part.training = training


def frozen_copy(module: torch.nn.Module) -> torch.nn.Module:
    """Copy a module in training into float32, eval mode, without gradients.

    Args:
        module: The module; it may be in the middle of training.

    Returns:
        The copy.
    """
    # Attention layers keep the weights of their last call, with their graph, which
    # cannot be copied and must not be: the copy starts without them.
    results = {
        id(value): None
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, torch.Tensor) and value.grad_fn is not None
    }
    clone = copy.deepcopy(module, results).float().eval().requires_grad_(False)
    for parameter in clone.parameters():
        parameter.grad = None
    return clone


class Teacher:
    """The live student itself (`pl_teacher: student`), and the base of the others.

    Its labels are made in eval mode: no dropout, batch-norm statistics as they are.
    """

    def module(self, student: torch.nn.Module) -> torch.nn.Module:
        """Return the module that labels now.

        Args:
            student: The model in training, not wrapped for distribution.
        """
        return student

    def update(self, student: torch.nn.Module) -> None:
        """Follow the student; called after every real optimizer step."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, tensors and plain numbers only."""
        return {}

    def load_state_dict(self, state: dict[str, Any], student: torch.nn.Module) -> None:
        """Restore a state.

        Args:
            state: What `state_dict` returned.
            student: The model in training, for its structure and device.
        """


class FrozenTeacher(Teacher):
    """The student as it was when pseudo-labeling started (`pl_teacher: frozen`)."""

    def __init__(self) -> None:
        self._copy: torch.nn.Module | None = None

    @property
    def born(self) -> bool:
        """Whether the first unlabeled mini-batch has been seen."""
        return self._copy is not None

    def module(self, student: torch.nn.Module) -> torch.nn.Module:
        """See `Teacher.module`; the first call copies the student."""
        if self._copy is None:
            self._copy = frozen_copy(student)
        return self._copy

    def state_dict(self) -> dict[str, Any]:
        """See `Teacher.state_dict`: the copy's weights, or None before its birth."""
        return {"model": self._copy.state_dict() if self._copy is not None else None}

    def load_state_dict(self, state: dict[str, Any], student: torch.nn.Module) -> None:
        """See `Teacher.load_state_dict`."""
        self._copy = None
        if state["model"] is not None:
            self.module(student).load_state_dict(state["model"])


class EMATeacher(FrozenTeacher):
    """An exponential moving average of the student (`pl_teacher: ema`).

    After every optimizer step: teacher <- decay * teacher + (1 - decay) * student,
    accumulated in float32 (Kaizen, https://arxiv.org/abs/2106.07759, found that
    critical). Buffers (batch-norm statistics, counters) are copied from the student.

    Args:
        decay: In [0, 1]; 0 is the student of the last update, 1 never moves.
        half_life_steps: Alternative to `decay`: optimizer steps after which the
            weight of a past student has halved, decay = 0.5 ** (1 / half_life_steps);
            greater than 0.

    Raises:
        ValueError: A value out of its range, or both given. With neither, the decay
            is 0.999.
    """

    def __init__(
        self, decay: float | None = None, half_life_steps: float | None = None
    ) -> None:
        super().__init__()
        if decay is not None and half_life_steps is not None:
            raise ValueError("give decay or half_life_steps, not both")
        if half_life_steps is not None:
            if not (math.isfinite(half_life_steps) and half_life_steps > 0):
                raise ValueError(
                    f"half_life_steps must be a finite number > 0: {half_life_steps!r}"
                )
            decay = 0.5 ** (1.0 / half_life_steps)
        decay = 0.999 if decay is None else decay
        if not 0.0 <= decay <= 1.0:
            raise ValueError(f"decay must be in [0, 1], got {decay!r}")
        self.decay = float(decay)

    @torch.no_grad()
    def update(self, student: torch.nn.Module) -> None:
        """See `Teacher.update`; does nothing before the first unlabeled batch."""
        if self._copy is None:
            return
        averages = list(self._copy.parameters())
        # .to() is a no-op for the usual float32 student.
        weights = [p.detach().to(torch.float32) for p in student.parameters()]
        torch._foreach_lerp_(averages, weights, 1.0 - self.decay)
        for mine, theirs in zip(self._copy.buffers(), student.buffers()):
            mine.copy_(theirs)


_TEACHERS: dict[str, type[Teacher]] = {
    "ema": EMATeacher,
    "frozen": FrozenTeacher,
    "student": Teacher,
}


def available() -> tuple[str, ...]:
    """Return the names of the teachers, sorted."""
    return tuple(sorted(_TEACHERS))


def build(name: str, **conf: Any) -> Teacher:
    """Build a teacher from `pl_teacher` and `pl_teacher_conf`.

    Args:
        name: One of `available()`.
        **conf: The teacher's keyword arguments.

    Returns:
        The teacher, not yet born.

    Raises:
        ValueError: Unknown name or setting, or a value out of its range.
    """
    if name not in _TEACHERS:
        raise ValueError(
            f"pl_teacher: unknown teacher {name!r}. Legal: {', '.join(available())}."
        )
    return build_from_conf(_TEACHERS[name], conf, "pl_teacher_conf")
