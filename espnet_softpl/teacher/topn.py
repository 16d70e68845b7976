"""The average of the best epochs' models."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from espnet_softpl.core.modules import average, check_structure
from espnet_softpl.core.ranges import at_least, choice
from espnet_softpl.teacher.base import register
from espnet_softpl.teacher.frozen import FrozenTeacher

logger = logging.getLogger(__name__)


def best_epochs(finished: Sequence[tuple[int, float]], n: int, mode: str) -> list[int]:
    """Pick the n best of pairs of epoch and value; `mode` is `min` or `max`.

    The best first, of equal values the earlier epoch; a value that is not finite leaves
    its epoch out.
    """
    sign = 1.0 if mode == "min" else -1.0
    finite = [
        (sign * value, epoch) for epoch, value in finished if math.isfinite(value)
    ]
    return [epoch for _, epoch in sorted(finite)[:n]]


@register("topn")
class TopNTeacher(FrozenTeacher):
    """The uniform average of the n best epochs' models (`pl_teacher: topn`).

    From the first unlabeled mini-batch to the end of that epoch it is a copy of the
    student; at the start of each later epoch it becomes the average of the best of all
    epochs that are finished by then, those before the copy included. If no epoch has a
    finite value yet, it stays as it is.

    Use: with a dev set like the unlabeled data, and short epochs.

    Source: the teacher of TopIPL (https://arxiv.org/abs/2506.07659), whose code
    averages the saved top-N checkpoints uniformly.

    Known failure: it moves only once per epoch, and not at all while no epoch gets
    better. With long epochs its labels are old.

    Args:
        n: How many epochs, at least 1; all of them while there are fewer.
        criterion: How the best are chosen, in three words as in ESPnet's
            `best_model_criterion`: phase (`train` or `valid`), statistic, and `min` or
            `max`.
    """

    kind = "topn"

    def __init__(
        self, n: int = 5, criterion: Sequence[str] = ("valid", "cer_ctc", "min")
    ) -> None:
        super().__init__()
        self.n = at_least("n", n, 1)
        words = list(criterion) if isinstance(criterion, (list, tuple)) else []
        if len(words) != 3 or not all(isinstance(w, str) and w for w in words):
            raise ValueError(
                f"criterion must be three words, phase, statistic and min or max, "
                f"got {criterion!r}"
            )
        choice("criterion[0]", words[0], ("train", "valid"))
        choice("criterion[2]", words[2], ("min", "max"))
        self.criterion = tuple(words)
        # What it is the average of, the best first; empty while it copies the student.
        self.epochs: list[int] = []

    @property
    def keep(self) -> int:
        """See `Teacher.keep`."""
        return self.n

    def begin_epoch(
        self,
        student: torch.nn.Module,
        finished: Sequence[tuple[int, float]],
        read: Callable[[int], Mapping[str, Tensor]],
    ) -> None:
        """See `Teacher.begin_epoch`; does nothing before the first unlabeled batch.

        If an epoch's model does not fit the student (UserError), it stays as it is.
        """
        phase, statistic, mode = self.criterion
        epochs = best_epochs(finished, self.n, mode)
        # The same epochs have the same average: nothing to read.
        if self._copy is None or not epochs or epochs == self.epochs:
            return
        weights = average(read(epoch) for epoch in epochs)
        what = f"pl_teacher: the weights of the epochs {epochs}"
        check_structure(weights, self._copy.state_dict(), what)
        self._copy.load_state_dict(weights)
        self.epochs = epochs
        logger.info(
            "The teacher is the average of the epochs %s, the best by %s %s",
            ", ".join(map(str, epochs)),
            phase,
            statistic,
        )

    def state_dict(self) -> dict[str, Any]:
        """See `Teacher.state_dict`: the weights, and the epochs they come from."""
        return {**super().state_dict(), "epochs": list(self.epochs)}

    def load_state_dict(self, state: dict[str, Any], student: torch.nn.Module) -> None:
        """See `Teacher.load_state_dict`."""
        super().load_state_dict(state, student)
        self.epochs = list(state["epochs"])
