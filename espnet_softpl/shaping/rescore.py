"""Give a label the teacher's N best transcripts, rescored by a language model."""

import torch
from torch import Tensor

from espnet_softpl.core.ranges import at_least, not_negative, positive
from espnet_softpl.ctc import in_float32
from espnet_softpl.ctc.beam_search import prefix_beam_search
from espnet_softpl.labels.pseudo_label import PseudoLabel
from espnet_softpl.labels.token_lm import TokenLM
from espnet_softpl.shaping.base import Shaping, register


def lm_scores(tokens: Tensor, token_lengths: Tensor, lm: TokenLM) -> Tensor:
    """Compute log P_LM of transcripts, their ends included, in nats.

    From tokens (B, N, U), padded with any value, and lengths (B, N) to (B, N).
    """
    # Blank, as the token before the first one, is the start.
    befores = torch.nn.functional.pad(tokens, (1, 0)).clamp(min=0)  # (B, N, U + 1)
    last = befores.gather(2, token_lengths.unsqueeze(2)).squeeze(2)
    positions = torch.arange(tokens.size(2), device=tokens.device)
    inside = positions < token_lengths.unsqueeze(2)
    scores = lm.log_probs.to(tokens.device)[befores[..., :-1], tokens.clamp(min=0)]
    return scores.masked_fill(~inside, 0.0).sum(2) + lm.ends.to(tokens.device)[last]


@register("rescore")
class Rescore(Shaping):
    """The N best transcripts with weights of the teacher and an LM together.

    w_n ~ exp((log P_T(y_n) + lm_scale log P_LM(y_n) + bonus |y_n|) / temperature), of
    sum 1 over the N best of a prefix beam search. The list becomes part of the label,
    best first: a cache keeps it, and `nbest_ctc`, `soft_ctc` and `occupancy_ce` take
    the first `nbest` of it (their own setting) instead of a search. The label's
    transcript is the best one: with `hard_ctc` it is the hard label of the same
    information, and filters see it. The posteriors stay as they are.

    Use: to choose among transcripts that sound alike.

    Source: rescored lattices as semi-supervised targets, Manohar et al. 2018
    ("Semi-supervised training of acoustic models using lattice-free MMI"); here a list.

    Known failure: an LM cannot choose what is not in the list. Near-copies of one error
    all contain it.

    Args:
        lm: A bigram of the tokens: an ARPA file; None leaves it out.
        lm_scale: Power of the LM, at least 0.
        bonus: Added for each token, in nats, at least 0.
        temperature: Of the list's weights, greater than 0; towards 0 the best one has
            all the weight, above 1 the weights come closer. (`sharpen` is about the
            frames.)
        nbest: N, at least 1.
        beam_size: Of the search, at least N; None takes 2 N.
    """

    makes_list = True

    def __init__(
        self,
        lm: TokenLM | None = None,
        lm_scale: float = 0.5,
        bonus: float = 0.0,
        temperature: float = 1.0,
        nbest: int = 16,
        beam_size: int | None = None,
    ) -> None:
        if lm is not None and not isinstance(lm, TokenLM):
            raise ValueError(f"lm must be a bigram of tokens, got {lm!r}")
        self.lm = lm
        self.lm_scale = not_negative("lm_scale", lm_scale)
        self.bonus = not_negative("bonus", bonus)
        self.temperature = positive("temperature", temperature)
        self.nbest = at_least("nbest", nbest, 1)
        beam_size = 2 * nbest if beam_size is None else beam_size
        self.beam_size = at_least("beam_size", beam_size, nbest)

    @torch.no_grad()
    def __call__(self, label: PseudoLabel) -> PseudoLabel:
        """See `Shaping.__call__`."""
        frames = in_float32(label.log_probs)
        best = prefix_beam_search(frames, label.lengths, self.nbest, self.beam_size)
        scores = best.scores + self.bonus * best.token_lengths.to(best.scores)
        if self.lm is not None:
            lm = lm_scores(best.tokens, best.token_lengths, self.lm)
            scores = scores + self.lm_scale * lm.to(scores)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        token_lengths = best.token_lengths.gather(1, order)
        tokens = best.tokens[torch.arange(len(order)).unsqueeze(1), order]
        return label.with_list(tokens, token_lengths, scores / self.temperature)
