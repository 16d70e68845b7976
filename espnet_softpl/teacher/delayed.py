"""A copy of the student that is renewed now and then."""

import torch

from espnet_softpl.teacher.base import register
from espnet_softpl.teacher.following import FollowingTeacher, follow


@register("delayed")
class DelayedTeacher(FollowingTeacher):
    """The student as it was up to `steps` optimizer steps ago (`pl_teacher: delayed`).

    It is copied, buffers included, at the first unlabeled mini-batch and again after
    every `steps` optimizer steps; in between, it stays as it is. `ema` with `decay: 0`
    and `every_steps` does the same. A buffer's value that is not finite is not taken
    over; see `following.follow`.

    Use: for generations of teachers, as in noisy student training.

    Source: iterative relabeling (https://arxiv.org/abs/2005.09629), with short rounds;
    the rule is ours.

    Known failure: every copy changes all labels at once, and a bad student teaches
    for a whole round.

    Args:
        steps: Optimizer steps from one copy to the next, at least 1; 1 is the student
            of the last update.
    """

    kind = "delayed"

    def __init__(self, steps: int) -> None:
        super().__init__(steps, "steps")

    def move(self, teacher: torch.nn.Module, student: torch.nn.Module) -> None:
        """See `FollowingTeacher.move`: copy the student."""
        follow(teacher, student, pairs=self.pairs(teacher, student))
