"""The pseudo-labeling engine: label, shape, trust, criterion, regularizers, guard.

B utterances, N samples, T frames after subsampling, V tokens with blank.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from espnet_softpl import unlabeled_head
from espnet_softpl.criteria import PLCriterion, PseudoLabel
from espnet_softpl.generator import PseudoLabelGenerator
from espnet_softpl.guard import Guard
from espnet_softpl.oracle import Oracle
from espnet_softpl.prior import RunningMean
from espnet_softpl.schedule import Scheduled
from espnet_softpl.shaping import Shaping


@dataclasses.dataclass
class PseudoLabeling:
    """What a model needs to learn from unlabeled batches.

    It hangs on the model as a plain attribute, so that nothing in it shows in
    `parameters()` or `state_dict()`.

    Attributes:
        criterion: The loss against a pseudo-label, by step.
        generator: Makes the pseudo-labels.
        regularizers: Terms added to the criterion, by step.
        shaping: Changes to the teacher's label before the criterion, in order.
        trust: Weighs the labels, `PseudoLabel -> (B,)`; None trusts all of them.
        oracle: Scores them where true transcripts exist, else None.
        guard: Watches for collapse, or None.
        labeled_tokens_per_sample: Speech rate of the labeled data, NaN if unknown.
        prior: The mean frame posterior on labeled batches; None where nobody asks.
        begun: Whether the first unlabeled batch has been seen.
        healthy_epoch: The epoch whose end the guard's back-off returns to, or None.
        last_batch: Utterance ids and label of the latest unlabeled batch, for reports.
    """

    criterion: Scheduled[PLCriterion]
    generator: PseudoLabelGenerator
    regularizers: Sequence[Scheduled[PLCriterion]] = ()
    shaping: Sequence[Shaping] = ()
    trust: Callable[[PseudoLabel], torch.Tensor] | None = None
    oracle: Oracle | None = None
    guard: Guard | None = None
    labeled_tokens_per_sample: float = float("nan")
    prior: RunningMean | None = dataclasses.field(init=False)
    begun: bool = dataclasses.field(init=False, default=False)
    healthy_epoch: int | None = dataclasses.field(init=False, default=None)
    last_batch: tuple[list[str], PseudoLabel] | None = dataclasses.field(
        init=False, default=None
    )

    def __post_init__(self) -> None:
        parts = (self.criterion, *self.regularizers)
        asked = any(part.at(0).needs_prior for part in parts)
        asked = asked or any(shaping.needs_prior for shaping in self.shaping)
        self.prior = RunningMean() if asked else None

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        """Stay out of copies of the model: a teacher needs none of this."""
        return None

    def begin(self, student: torch.nn.Module, head: torch.nn.Module) -> None:
        """At the first unlabeled batch, let the unlabeled head start from the other.

        Args:
            student: The model in training.
            head: Its CTC head for labeled batches, by now that of the seed.
        """
        own = unlabeled_head.of(student)
        if own is not None and not self.begun:
            own.load_state_dict(head.state_dict())
        self.begun = True

    def prepare(self, label: PseudoLabel) -> PseudoLabel:
        """Shape a teacher's label, and weigh it.

        Args:
            label: The label as the teacher made it.

        Returns:
            The label that the criterion sees.
        """
        if self.prior is not None:
            label = label._replace(prior=self.prior.value)
        for shaping in self.shaping:
            label = shaping(label)
        return label if self.trust is None else label._replace(weight=self.trust(label))

    def losses(
        self,
        log_probs: torch.Tensor,
        lengths: torch.Tensor,
        label: PseudoLabel,
        step: int,
    ) -> torch.Tensor:
        """Compute the loss of each utterance, regularizers included.

        Args:
            log_probs: The student's normalized frame log-posteriors, (B, T, V).
            lengths: Frames per utterance, (B,).
            label: What `prepare` returned; with `second_view` for two views.
            step: The mini-batch of training.

        Returns:
            (B,), in nats per utterance.
        """
        parts = [part.at(step) for part in (self.criterion, *self.regularizers)]
        device = log_probs.device  # A user's criterion may hold buffers.
        return sum(part.to(device)(log_probs, lengths, label) for part in parts)

    @property
    def weight_factor(self) -> float:
        """What is left of the unlabeled loss after the guard's back-offs, in (0, 1]."""
        return 1.0 if self.guard is None else self.guard.weight_factor

    def state_dict(self, student: torch.nn.Module) -> dict[str, Any]:
        """Return what a resumed run needs, tensors and plain values only.

        Args:
            student: The model in training, for what its own state leaves out.
        """
        head = unlabeled_head.of(student)
        return {
            "begun": self.begun,
            "healthy_epoch": self.healthy_epoch,
            "head": None if head is None else head.state_dict(),
            "teacher": self.generator.teacher.state_dict(),
            "shaping": [shaping.state_dict() for shaping in self.shaping],
            "prior": None if self.prior is None else self.prior.state_dict(),
            "guard": None if self.guard is None else self.guard.state_dict(),
        }

    def load_state_dict(
        self, state: dict[str, Any], student: torch.nn.Module, guard: bool = True
    ) -> None:
        """Restore a state.

        Args:
            state: What `state_dict` returned, with the same settings.
            student: The model in training, for its structure and device.
            guard: False leaves the guard as it is, which remembers what it undid.
        """
        self.begun = state["begun"]
        head = unlabeled_head.of(student)
        if head is not None:
            head.load_state_dict(state["head"])
        self.generator.teacher.load_state_dict(state["teacher"], student)
        for shaping, saved in zip(self.shaping, state["shaping"], strict=True):
            shaping.load_state_dict(saved)
        if self.prior is not None:
            self.prior.load_state_dict(state["prior"])
        if guard:
            self.healthy_epoch = state["healthy_epoch"]
            if self.guard is not None and state["guard"] is not None:
                self.guard.load_state_dict(state["guard"])
