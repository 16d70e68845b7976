"""What a criterion is, and how a name becomes one."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from espnet_softpl.core.registry import Registry
from espnet_softpl.labels.pseudo_label import PseudoLabel


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Average the losses of a batch over all of its utterances.

    Args:
        losses: Loss of each utterance, (B,).
        weights: Of each utterance, (B,); 0 removes it exactly, even if its loss is
            not finite.

    Returns:
        sum(weights * losses) / B, a scalar: a dropped utterance does not make the
        others count more, as in ESPnet's own CTC.
    """
    losses = torch.where(weights > 0, losses, torch.zeros_like(losses))
    return (losses * weights).sum() / losses.numel()


class PLCriterion(torch.nn.Module, abc.ABC):
    """The loss of a student against a pseudo-label.

    Subclasses implement `forward` and take their settings as keyword arguments. A
    criterion knows nothing of reduction, mixed precision, processes, filtering or the
    step count.

    Attributes:
        frame_level: True if the target is one distribution (or token) per frame,
            so that the student's augmentation must not move frames in time.
        trains_decoder: True if the target is a transcript on which the attention
            decoder of a hybrid model can be trained too.
        views: Augmented views of the audio that the student must see, 1 or 2.
        labeled_weight: Weight of the criterion on labeled batches, where it has a
            meaning there (two views without a teacher), else 0.
        needs_prior: True if `PseudoLabel.prior` is used.
        weighs_frames: True if `PseudoLabel.frame_weight` is used.
        needs_posteriors: True if `PseudoLabel.log_probs` is used, so that a label
            cache must keep them; if False, they may be uniform.
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
        self, log_probs: Tensor, lengths: Tensor, pseudo_label: PseudoLabel
    ) -> Tensor:
        """Compute the loss of each utterance.

        Args:
            log_probs: The student's normalized frame log-posteriors, (B, T, V).
            lengths: Frames per utterance, (B,).
            pseudo_label: The teacher's label of the same utterances.

        Returns:
            (B,), in nats per utterance (a sum over frames, not a mean).
        """

    def on_labeled(
        self, log_probs: Tensor, lengths: Tensor, second_view: Tensor
    ) -> Tensor:
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
