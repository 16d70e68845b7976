"""Divergence of the mean posterior from that on labeled data."""

from torch import Tensor

from espnet_softpl.labels.prior import with_floor
from espnet_softpl.regularizers.base import MeanRegularizer, register
from espnet_softpl.regularizers.mean_entropy import negative_entropy


def kl_to_prior(mean: Tensor, prior: Tensor) -> Tensor:
    """Compute KL(m || q) = sum_v m(v) log (m(v) / q(v)), a scalar in nats, at least 0.

    Args:
        mean: m, (V,). Shares of exactly 0 cost nothing, and have a finite gradient.
        prior: q, (V,); a token never seen is given a small share, for its cost
            would be infinite. No gradient flows to it.
    """
    log_prior = with_floor(prior.detach().to(mean)).log()
    return negative_entropy(mean) - (mean * log_prior).sum()


@register("prior_kl")
class PriorKL(MeanRegularizer):
    """KL divergence of the mean posterior from the prior, for every frame.

    L_b = weight * T_b * KL(m || q), m the mean of p_S over all frames of the batch's
    kept utterances, q the mean frame posterior on labeled data, floored at 1e-6 and
    renormalized. It opposes drift in the use of tokens, including blank, both to few
    tokens and to a flat use of all. It is 0 while the prior is unknown. `frame_weight`
    is ignored.

    Use: against few tokens, blank only, or a flat mean.

    Source: ours, after the prior term of learning with noisy labels (compare Tanaka et
    al. 2018, https://arxiv.org/abs/1803.11364, over images); here over frames, and in
    the direction that punishes tokens said too often.

    Known failure: it sees only the mean, so a student that says the prior at every
    frame pays nothing. Also, a small batch's mean differs from q by chance.

    Settings: `MeanRegularizer`.
    """

    needs_prior = True

    def term(self, mean: Tensor, prior: Tensor | None) -> Tensor:
        """See `MeanRegularizer.term`."""
        # A zero that still depends on the student, so that it can be backwarded.
        return 0.0 * mean.sum() if prior is None else kl_to_prior(mean, prior)
