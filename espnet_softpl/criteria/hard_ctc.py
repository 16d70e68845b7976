"""CTC on the teacher's greedy transcript: the hard label of slimIPL and MPL."""

from torch import Tensor

from espnet_softpl.criteria.base import PLCriterion, register
from espnet_softpl.ctc import weigh
from espnet_softpl.ctc.loss import ctc_nll
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


@register("hard_ctc")
class HardCTC(PLCriterion):
    """CTC on the greedy transcript.

    L = -log sum_{pi: collapse(pi) = y} prod_t p_S(pi_t | t), y = the teacher's greedy
    transcript. The gradient with respect to the student's logits is p_S - gamma_S(y),
    with gamma_S(y) the student's occupancies given y: the student chooses where to
    put the tokens.

    Source: slimIPL (Likhomanenko et al. 2020, https://arxiv.org/abs/2010.11524); MPL
    (Higuchi et al. 2021, https://arxiv.org/abs/2106.08922).

    Known failure: an empty transcript pushes the blank up at every frame, which makes
    more transcripts empty. `pl_filter` therefore leaves empty transcripts out.
    """

    trains_decoder = True
    weighs_frames = True
    needs_posteriors = False

    def forward(
        self, log_probs: Tensor, lengths: Tensor, pseudo_label: PseudoLabel
    ) -> Tensor:
        """See `PLCriterion.forward` and `hard_ctc`."""
        transcripts = pseudo_label.tokens, pseudo_label.token_lengths
        log_probs = weigh(log_probs, pseudo_label.frame_weight)
        return hard_ctc(log_probs, lengths, *transcripts)
