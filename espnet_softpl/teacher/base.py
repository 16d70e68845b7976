"""What every teacher can do, and the live student as the simplest of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from espnet_softpl.core.errors import UserError
from espnet_softpl.core.registry import Registry


class Teacher:
    """The live student itself (`pl_teacher: student`), and the base of the others.

    Its labels are made in eval mode: no dropout, batch-norm statistics as they are. In
    all methods, `student` is the model in training, not wrapped for distribution.

    Use: with a cache, to spare a second copy and most of the labeling.

    Source: slimIPL (Likhomanenko et al. 2020, https://arxiv.org/abs/2010.11524).

    Known failure: without a cache nothing holds it back, and labels collapse soonest.
    """

    # What the state is marked with, so that it is restored into a teacher of the same
    # kind only; the class's name if a subclass does not say.
    kind: str = "student"
    keep: int = 0  # Number of the best epochs whose model files must be kept for it.
    # What they are the best by, as ESPnet's `best_model_criterion`: phase, statistic,
    # `min` or `max`; None if `keep` is 0.
    criterion: tuple[str, str, str] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kind = vars(cls).get("kind", cls.__name__)

    def module(self, student: torch.nn.Module) -> torch.nn.Module:
        """Return the module that labels now."""
        return student

    def update(self, student: torch.nn.Module) -> None:
        """Follow the student; called after every real optimizer step."""

    def begin_run(self, steps: int) -> None:
        """Take in how many optimizer steps the run has; called before the first."""

    def begin_epoch(
        self,
        student: torch.nn.Module,
        finished: Sequence[tuple[int, float]],
        read: Callable[[int], Mapping[str, Tensor]],
    ) -> None:
        """Take in the epochs before; called at the start of every epoch.

        `finished` has number and value of `criterion` of every finished epoch, NaN for
        none; it is empty for a teacher without `criterion`. `read` returns the model of
        one of the `keep` best epochs, its `state_dict()` as ESPnet saved it.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, tensors and plain values only.

        Subclasses add to this. The weights of a teacher that has its own are
        `model`, None before the first unlabeled mini-batch.
        """
        return {"kind": self.kind}

    def load_state_dict(self, state: dict[str, Any], student: torch.nn.Module) -> None:
        """Restore a state; subclasses call this first.

        Raises:
            UserError: It is the state of a teacher of another kind, or of another
                model. The teacher stays as it is.
        """
        if state.get("kind") != self.kind:
            raise UserError(
                f"pl_teacher: the saved state is of a teacher {state.get('kind')!r}, "
                f"this run's is {self.kind!r}; resume with the same pl_teacher"
            )


REGISTRY: Registry[Teacher] = Registry("pl_teacher", Teacher)
REGISTRY.register("student")(Teacher)
register = REGISTRY.register
available = REGISTRY.available
build = REGISTRY.build
