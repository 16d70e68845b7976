"""CTC on the teacher's greedy transcript: the hard label of slimIPL and MPL."""

import torch
from torch import Tensor

from espnet_softpl.core.ranges import not_negative
from espnet_softpl.criteria.base import PLCriterion, register
from espnet_softpl.ctc import frame_mask, in_float32, min_frames, weigh
from espnet_softpl.ctc.loss import ctc_nll
from espnet_softpl.labels.prior import with_floor
from espnet_softpl.labels.pseudo_label import PseudoLabel


def hard_ctc(
    log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
) -> Tensor:
    """Compute `ctc_nll` of one transcript of each utterance, (B, U), to (B,), in nats.

    An empty transcript is allowed; one that is longer than its frames allow has loss
    and gradient 0.
    """
    transcripts = tokens.unsqueeze(1), token_lengths.unsqueeze(1)
    return ctc_nll(log_probs, lengths, *transcripts).squeeze(1)


def scaled_ctc(
    scores: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
) -> Tensor:
    """Compute `hard_ctc` of scores (B, T, V) that are not normalized.

    Normalized first, and the constants added again: occupancies found from numbers
    like exp(10) have no digits left in float32.
    """
    total = scores.logsumexp(-1)  # (B, T)
    losses = hard_ctc(scores - total.unsqueeze(-1), lengths, tokens, token_lengths)
    constants = torch.where(frame_mask(lengths, total.size(1)), total, 0.0).sum(1)
    possible = min_frames(tokens, token_lengths) <= lengths
    return losses - torch.where(possible, constants, 0.0)


@register("hard_ctc")
class HardCTC(PLCriterion):
    """CTC on the greedy transcript.

    L = -log sum_{pi: collapse(pi) = y} prod_t p_S(pi_t | t), y = the teacher's greedy
    transcript. The gradient with respect to the student's logits is p_S - gamma_S(y),
    with gamma_S(y) the student's occupancies given y: the student chooses where to
    put the tokens.

    With a prior q(v), the mean posterior on labeled data, p_S(v | t) is divided by
    q(v) ** prior_scale inside the sum; the gradient is p_S - gamma, with gamma computed
    from the quotients. Rare tokens are held for more frames, and blank for fewer. This
    opposes a drift to blank. While q is unknown, the prior is left out.

    Use: first, and as the reference for every other label.

    Source: slimIPL (Likhomanenko et al. 2020, https://arxiv.org/abs/2010.11524); MPL
    (Higuchi et al. 2021, https://arxiv.org/abs/2106.08922). The prior: Zeyer et al.
    2021, https://arxiv.org/abs/2105.14849; Huang et al. 2024,
    https://arxiv.org/abs/2406.02560, for less peaky alignments; here q is of labeled
    data.

    Known failure: an empty transcript pushes the blank up at every frame, which makes
    more transcripts empty. So `pl_filter` leaves empty transcripts out. With a prior,
    losses can fall below 0, and greedy decoding says more than it should, because p_S
    is trained to be right after the division.

    Args:
        prior_scale: Power of the prior, at least 0; 0 is plain CTC.
    """

    trains_decoder = True
    weighs_frames = True
    needs_posteriors = False

    def __init__(self, prior_scale: float = 0.0) -> None:
        super().__init__()
        self.prior_scale = not_negative("prior_scale", prior_scale)
        self.needs_prior = prior_scale > 0.0

    def forward(
        self, log_probs: Tensor, lengths: Tensor, pseudo_label: PseudoLabel
    ) -> Tensor:
        """See `PLCriterion.forward` and `hard_ctc`."""
        transcripts = pseudo_label.tokens, pseudo_label.token_lengths
        prior = pseudo_label.prior
        if self.needs_prior and prior is not None:
            log_probs = in_float32(log_probs)
            log_prior = with_floor(prior.to(log_probs)).log()
            scores = log_probs - self.prior_scale * log_prior
            scores = weigh(scores, pseudo_label.frame_weight)
            return scaled_ctc(scores, lengths, *transcripts)
        log_probs = weigh(log_probs, pseudo_label.frame_weight)
        return hard_ctc(log_probs, lengths, *transcripts)
