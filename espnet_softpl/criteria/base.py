"""What a pseudo-label is, what a criterion is, and how a name becomes one.

B utterances, T frames after subsampling, V tokens with blank, U labels.
"""

from __future__ import annotations

import abc
from typing import NamedTuple

import torch

from espnet_softpl.registry import Registry


class PseudoLabel(NamedTuple):
    """Everything a teacher says about a batch of unlabeled utterances.

    Attributes:
        log_probs: The teacher's frame log-posteriors, (B, T, V), without gradient.
        lengths: Frames per utterance, (B,).
        tokens: The teacher's transcript, (B, U), padded with -1.
        token_lengths: Tokens per utterance, (B,).
        weight: Trust in each utterance, (B,), at least 0; 0 leaves it out exactly.
        frame_weight: Trust in each frame, (B, T), in [0, 1], or None for full trust.
            It multiplies the student's log-posteriors: a frame of weight 0 costs
            nothing and, in a sum over alignments, may be any token.
        prior: The mean frame posterior on labeled data, (V,), or None if unknown.
        second_view: The student's log-posteriors of a second augmentation of the
            same audio, (B, T, V), with gradient; only for criteria with two `views`.
    """

    log_probs: torch.Tensor
    lengths: torch.Tensor
    tokens: torch.Tensor
    token_lengths: torch.Tensor
    weight: torch.Tensor
    frame_weight: torch.Tensor | None = None
    prior: torch.Tensor | None = None
    second_view: torch.Tensor | None = None


class PLCriterion(torch.nn.Module, abc.ABC):
    """The loss of a student against a pseudo-label.

    Subclasses implement `forward` and take their settings as keyword arguments. A
    criterion knows nothing of reduction, mixed precision, processes, filtering or the
    step count.

    Attributes:
        frame_level: True where the target is one distribution (or token) per frame,
            so that the student's augmentation must not move frames in time.
        trains_decoder: True where the target is a transcript on which the attention
            decoder of a hybrid model can be trained too.
        views: Augmented views of the audio that the student must see, 1 or 2.
        labeled_weight: Weight of the criterion on labeled batches, where it has a
            meaning there (two views without a teacher), else 0.
        needs_prior: True where `PseudoLabel.prior` is used.
        weighs_frames: True where `PseudoLabel.frame_weight` is used.
        needs_posteriors: True where `PseudoLabel.log_probs` is used, so that a label
            cache must keep them; where False, they may be uniform.
    """

    frame_level: bool = False
    trains_decoder: bool = False
    views: int = 1
    labeled_weight: float = 0.0
    needs_prior: bool = False
    weighs_frames: bool = False
    needs_posteriors: bool = True

    def __init__(self) -> None:
        # Stated, for torch's own takes any argument: settings can then be checked.
        super().__init__()

    @abc.abstractmethod
    def forward(
        self,
        log_probs: torch.Tensor,
        lengths: torch.Tensor,
        pseudo_label: PseudoLabel,
    ) -> torch.Tensor:
        """Compute the loss of each utterance.

        Args:
            log_probs: The student's normalized frame log-posteriors, (B, T, V).
            lengths: Frames per utterance, (B,).
            pseudo_label: The teacher's label of the same utterances.

        Returns:
            (B,), in nats per utterance (a sum over frames, not a mean).
        """

    def on_labeled(
        self,
        log_probs: torch.Tensor,
        lengths: torch.Tensor,
        second_view: torch.Tensor,
    ) -> torch.Tensor:
        """Compute a further loss of labeled utterances, for `labeled_weight` > 0.

        Args:
            log_probs: The student's log-posteriors of one view, (B, T, V).
            lengths: Frames per utterance, (B,).
            second_view: Those of a second view, (B, T, V).

        Returns:
            (B,), in nats per utterance, `labeled_weight` included.
        """
        return torch.zeros_like(lengths, dtype=log_probs.dtype)


REGISTRY: Registry[PLCriterion] = Registry("pl_criterion", PLCriterion)

register = REGISTRY.register
available = REGISTRY.available
build = REGISTRY.build
