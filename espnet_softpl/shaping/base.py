"""What may change a teacher's label before the criterion sees it."""

from __future__ import annotations

import abc

from torch import Tensor

from espnet_softpl.core.registry import Registry
from espnet_softpl.core.stateful import Stateful
from espnet_softpl.ctc import greedy
from espnet_softpl.labels.pseudo_label import PseudoLabel


class Shaping(Stateful, abc.ABC):
    """A change to a pseudo-label, which leaves the label it is given as it is.

    Subclasses implement `__call__` and take their settings as keyword arguments. What
    they compute has no gradient, and is in float32 for half precision.

    Attributes:
        needs_prior: True if `PseudoLabel.prior` is used.
        sets_frame_weight: True if `PseudoLabel.frame_weight` is set.
    """

    needs_prior: bool = False
    sets_frame_weight: bool = False

    @abc.abstractmethod
    def __call__(self, label: PseudoLabel) -> PseudoLabel:
        """Change a batch of labels.

        Args:
            label: The labels of B utterances.

        Returns:
            The changed labels.
        """


REGISTRY: Registry[Shaping] = Registry("pl_shaping", Shaping)

register = REGISTRY.register
available = REGISTRY.available
build = REGISTRY.build


def relabel(label: PseudoLabel, log_probs: Tensor) -> PseudoLabel:
    """Replace the teacher's posteriors, and read the transcript from the new ones.

    Args:
        label: The labels of B utterances.
        log_probs: The new frame log-posteriors, (B, T, V).

    Returns:
        The label with new log_probs, tokens and token_lengths.
    """
    tokens, token_lengths = greedy(log_probs, label.lengths)
    return label._replace(
        log_probs=log_probs, tokens=tokens, token_lengths=token_lengths
    )
