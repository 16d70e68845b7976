"""A teacher with weights of its own, which stay as they were when copied."""

from typing import Any

import torch

from espnet_softpl.core.modules import check_structure, frozen_copy
from espnet_softpl.teacher.base import Teacher, register


@register("frozen")
class FrozenTeacher(Teacher):
    """The student as it was when pseudo-labeling started (`pl_teacher: frozen`).

    Use: as a reference that cannot collapse.

    Source: pseudo-labels made once, before training (Kahn et al. 2019,
    https://arxiv.org/abs/1909.09116); here they are made as they are needed.

    Known failure: its labels never get better, so it gains little.
    """

    kind = "frozen"

    def __init__(self) -> None:
        self._copy: torch.nn.Module | None = None

    def module(self, student: torch.nn.Module) -> torch.nn.Module:
        """See `Teacher.module`; the first call copies the student."""
        if self._copy is None:
            self._copy = frozen_copy(student)
        return self._copy

    def state_dict(self) -> dict[str, Any]:
        """See `Teacher.state_dict`: the copy's weights, or None before it is made."""
        weights = None if self._copy is None else self._copy.state_dict()
        return {**super().state_dict(), "model": weights}

    def load_state_dict(self, state: dict[str, Any], student: torch.nn.Module) -> None:
        """See `Teacher.load_state_dict`."""
        super().load_state_dict(state, student)
        if state["model"] is None:
            self._copy = None
            return
        what = "pl_teacher: the saved weights"
        check_structure(state["model"], student.state_dict(), what)
        # First forgotten, so that two copies never need memory at once.
        self._copy = None
        self.module(student).load_state_dict(state["model"])
