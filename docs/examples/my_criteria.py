"""my_criteria.py: two criteria of your own; see docs/write_a_criterion.md."""

from espnet_softpl.criteria import PLCriterion, hard_ctc
from espnet_softpl.ctc import frame_mask, weigh


class ReverseKL(PLCriterion):
    frame_level = True  # time warping is refused: frames must stay aligned

    def forward(self, log_probs, lengths, pseudo_label):  # (B, T, V), (B,) -> (B,)
        kl = log_probs.exp() * (log_probs - pseudo_label.log_probs)
        mask = frame_mask(lengths, log_probs.size(1))
        return kl.sum(-1).masked_fill(~mask, 0.0).sum(-1)


class FocalCTC(PLCriterion):
    trains_decoder = True  # the target is a transcript
    weighs_frames = True  # confidence shaping may be used with it
    needs_posteriors = False  # a label cache need not keep them

    def __init__(self, focus: float = 1.0):
        super().__init__()
        if not 0.0 <= focus <= 10.0:
            raise ValueError(f"focus must be in [0, 10], got {focus!r}")
        self.focus = focus

    def forward(self, log_probs, lengths, pseudo_label):
        losses = hard_ctc(
            weigh(log_probs, pseudo_label.frame_weight),
            lengths,
            pseudo_label.tokens,
            pseudo_label.token_lengths,
        )
        if self.focus == 0.0:
            return losses
        # With frames of weight 0 the loss may fall below 0, and an empty y has no U.
        per_token = losses.clamp(min=1e-6) / pseudo_label.token_lengths.clamp(min=1)
        return (1.0 - (-per_token).exp()) ** self.focus * losses
