"""What every teacher can do, and the live student as the simplest of them."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from espnet_softpl.checks import UserError, name_some
from espnet_softpl.registry import Registry


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Put a module in eval mode, and every part of it back as it was afterwards.

    Args:
        module: The module; its `eval()` and `train()` are not called.

    Yields:
        The module.
    """
    # Only the flags: some adapters (LoRA) merge their weights into those below them
    # when eval() is called, and the student has to go on training unmerged.
    modes = [(part, part.training) for part in module.modules()]
    for part, _ in modes:
        part.training = False
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
    clone = copy.deepcopy(module, results).float().requires_grad_(False)
    for part in clone.modules():
        part.training = False  # As in `evaluating`: what eval() merged would not match.
    for parameter in clone.parameters():
        parameter.grad = None
    return clone


def check_structure(
    found: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], what: str
) -> None:
    """Refuse weights whose names or shapes are not those of a model.

    Args:
        found: The weights by name.
        wanted: The model's `state_dict()`.
        what: What the weights are, for the message; in the plural.

    Raises:
        UserError: A name is missing, or more than wanted, or has another shape.
    """
    common = sorted(found.keys() & wanted.keys())
    faults = {
        "missing": sorted(wanted.keys() - found.keys()),
        "unknown": sorted(found.keys() - wanted.keys()),
        "of another shape": [n for n in common if found[n].shape != wanted[n].shape],
    }
    if any(faults.values()):
        named = [
            f"{len(names)} {fault} ({name_some(names)})"
            for fault, names in faults.items()
            if names
        ]
        raise UserError(f"{what} do not fit the model: {'; '.join(named)}")


class Teacher:
    """The live student itself (`pl_teacher: student`), and the base of the others.

    Its labels are made in eval mode: no dropout, batch-norm statistics as they are.

    Attributes:
        kind: What the state is marked with, so that it is restored into a teacher of
            the same kind only; the class's name where a subclass does not say.
        keep: Number of the best epochs whose model files must be kept for it.
        criterion: What they are the best by, as in ESPnet's `best_model_criterion`:
            phase, statistic, `min` or `max`; None where `keep` is 0.
    """

    kind: str = "student"
    keep: int = 0
    criterion: tuple[str, str, str] | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kind = vars(cls).get("kind", cls.__name__)

    def module(self, student: torch.nn.Module) -> torch.nn.Module:
        """Return the module that labels now.

        Args:
            student: The model in training, not wrapped for distribution.
        """
        return student

    def update(self, student: torch.nn.Module) -> None:
        """Follow the student; called after every real optimizer step.

        Args:
            student: The model in training, not wrapped for distribution.
        """

    def begin_epoch(
        self,
        student: torch.nn.Module,
        finished: Sequence[tuple[int, float]],
        read: Callable[[int], Mapping[str, torch.Tensor]],
    ) -> None:
        """Take in the epochs before; called at the start of every epoch.

        Args:
            student: The model in training, not wrapped for distribution.
            finished: Number and value of `criterion` of every finished epoch; NaN
                where an epoch has none. Empty for a teacher without `criterion`.
            read: Returns the model of an epoch, its `state_dict()` as ESPnet saved
                it; for the `keep` best epochs.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, tensors and plain values only.

        Subclasses add to this. The weights of a teacher that has its own are
        `model`, None before its birth.
        """
        return {"kind": self.kind}

    def load_state_dict(self, state: dict[str, Any], student: torch.nn.Module) -> None:
        """Restore a state; subclasses call this first.

        Args:
            state: What `state_dict` returned.
            student: The model in training, for its structure and device.

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
