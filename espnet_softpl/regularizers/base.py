"""Regularizers: criteria on the student's mean posterior, added to any criterion."""

import abc

from torch import Tensor

from espnet_softpl.core.ranges import not_negative
from espnet_softpl.core.registry import Registry
from espnet_softpl.criteria.base import PLCriterion
from espnet_softpl.ctc import frame_mask
from espnet_softpl.labels.prior import mean_posterior
from espnet_softpl.labels.pseudo_label import PseudoLabel

REGISTRY: Registry[PLCriterion] = Registry("pl_regularizer", PLCriterion)

register = REGISTRY.register
available = REGISTRY.available
build = REGISTRY.build


class MeanRegularizer(PLCriterion):
    """A term of the student's mean posterior over the utterances kept, times a weight.

    A term R of the mean, in nats per frame, becomes a loss in nats per utterance as
    frames * R: it then weighs against a criterion alike in batches of any size. Kept
    are utterances with a `weight` above 0, all of them alike; `frame_weight` is
    ignored.

    Args:
        weight: At least 0; 1 counts a nat of the term as a nat of the criterion.
    """

    needs_posteriors = False

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__()
        self.weight = not_negative("weight", weight)

    @abc.abstractmethod
    def term(self, mean: Tensor, prior: Tensor | None) -> Tensor:
        """Compute the term, a scalar in nats, of the mean and the prior, (V,) both."""

    def forward(
        self, log_probs: Tensor, lengths: Tensor, pseudo_label: PseudoLabel
    ) -> Tensor:
        """See `PLCriterion.forward`."""
        kept = (pseudo_label.weight > 0).to(lengths.device)
        mask = frame_mask(lengths, log_probs.size(1)) & kept.unsqueeze(1)
        mean = mean_posterior(log_probs, mask)  # (V,), zeros if nothing is kept.
        frames = (lengths * kept).to(mean.dtype)
        return self.weight * frames * self.term(mean, pseudo_label.prior)
