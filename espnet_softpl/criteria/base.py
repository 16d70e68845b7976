"""What a criterion is, and how a name becomes one."""

import abc

import torch
from torch import Tensor

from espnet_softpl.core.registry import Registry
from espnet_softpl.labels.pseudo_label import PseudoLabel


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Compute sum(weights * losses) / B, a scalar, from two of (B,).

    A weight of 0 removes an utterance exactly, even if its loss is not finite, and does
    not make the others count more, as in ESPnet's own CTC.
    """
    losses = torch.where(weights > 0, losses, torch.zeros_like(losses))
    return (losses * weights).sum() / losses.numel()


class PLCriterion(torch.nn.Module, abc.ABC):
    """The loss of a student against a pseudo-label.

    Subclasses implement `forward` and take their settings as keyword arguments; a value
    that is out of its range raises ValueError. A criterion knows nothing of reduction,
    mixed precision, processes, filtering or the step count.
    """

    # The target is one distribution (or token) per frame: the student's augmentation
    # must not move frames in time.
    frame_level: bool = False
    trains_decoder: bool = False  # A hybrid's decoder can learn the target as well.
    views: int = 1  # Augmented views of the audio that the student must see, 1 or 2.
    labeled_weight: float = 0.0  # Of the criterion on labeled batches: `on_labeled`.
    needs_prior: bool = False  # Whether `PseudoLabel.prior` is used,
    needs_masked: bool = False  # and `masked`,
    weighs_frames: bool = False  # and `frame_weight`,
    needs_posteriors: bool = True  # and `log_probs`; if not, a cache may drop them.

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

        From the student's log-posteriors of two views, (B, T, V), and lengths, (B,), to
        (B,), in nats per utterance, `labeled_weight` included.
        """
        return torch.zeros_like(lengths, dtype=log_probs.dtype)


REGISTRY: Registry[PLCriterion] = Registry("pl_criterion", PLCriterion)

register = REGISTRY.register
available = REGISTRY.available
build = REGISTRY.build
