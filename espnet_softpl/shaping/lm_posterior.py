"""Posteriors of frames given the audio and a bigram language model of tokens."""

import torch
from torch import Tensor

from espnet_softpl.core.ranges import at_least, not_negative
from espnet_softpl.ctc import BLANK, frame_mask, frequent_tokens
from espnet_softpl.labels.pseudo_label import PseudoLabel
from espnet_softpl.labels.token_lm import TokenLM
from espnet_softpl.shaping.base import Shaping, register, relabel


def lm_posterior(
    log_probs: Tensor, lengths: Tensor, new_token: Tensor, ends: Tensor
) -> Tensor:
    """Compute the posterior of each frame's token, summed over all alignments.

    The weight of an alignment is the product of p(t, path_t), of exp new_token[u, v]
    for each new token v after token u, and of exp ends[u] for its last token u. A
    posterior is the derivative of the log of the sum of all weights by log p(t, v).

    The state after a frame is its last token and whether the frame was a blank, so that
    "a blank a" is two tokens and "a a" one. With f the V states of frames that are
    tokens, b those of blanks, W the weights of new tokens and W1 = W with a diagonal of
    1 (the token is held), a frame is one product of matrices:

        f'(v) = p(v) (f W1 + b W)(v)        b'(u) = p(blank) (f(u) + b(u))

    In float64 and scaled frame by frame: T times V^2 multiplications.

    Args:
        log_probs: Frame log-posteriors, (B, T, V), V with blank.
        lengths: Frames per utterance, (B,).
        new_token: Log weight of token v (column) after u, (V, V) or (B, V, V); u is
            blank at the start.
        ends: Log weight of ending after token u, (V,) or (B, V).

    Returns:
        Log-posteriors, (B, T, V), in the type of log_probs; padding is as it was.
        NaN if all alignments have weight 0.
    """
    probs = log_probs.detach().double()
    probs = (probs - probs.amax(-1, keepdim=True)).exp()
    blanks = probs[..., BLANK].unsqueeze(-1).clone()  # (B, T, 1)
    probs[..., BLANK] = 0.0
    new = new_token.double().exp()
    held = new.clone()
    held.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    arcs = torch.cat((held, new), -2)  # (2 V, V)
    size = probs.size(-1)
    inside = frame_mask(lengths, probs.size(1)).unsqueeze(-1)  # (B, T, 1)

    state = probs.new_zeros(len(probs), 2 * size)
    state[:, size + BLANK] = 1.0  # A blank, and no token before it.
    forward = []
    for frame, blank in zip(probs.unbind(1), blanks.unbind(1)):
        said = frame * _product(state, arcs)
        silent = blank * (state[:, :size] + state[:, size:])
        state = torch.cat((said, silent), -1)
        state = state / state.sum(-1, keepdim=True)
        forward.append(state)

    final = ends.double().exp().expand(len(probs), size)
    final = state = final.repeat(1, 2)
    backward = []
    for frame, blank, mask in zip(
        probs.flip(1).unbind(1), blanks.flip(1).unbind(1), inside.flip(1).unbind(1)
    ):
        backward.append(state)
        before = _product(frame * state[:, :size], arcs.mT)
        before = before + (blank * state[:, size:]).repeat(1, 2)
        # Behind the end of an utterance nothing is left to be said.
        state = torch.where(mask, before / before.amax(-1, keepdim=True), final)

    shares = torch.stack(forward, 1) * torch.stack(backward[::-1], 1)
    posterior = shares[..., :size]
    posterior[..., BLANK] = shares[..., size:].sum(-1)
    posterior = (posterior / posterior.sum(-1, keepdim=True)).log()
    return torch.where(inside, posterior.to(log_probs.dtype), log_probs.detach())


def _product(rows: Tensor, matrix: Tensor) -> Tensor:
    """Multiply (B, N) by one matrix (N, M), or by one for each row, (B, N, M)."""
    return (rows.unsqueeze(1) @ matrix).squeeze(1)


@register("lm_posterior")
class LMPosterior(Shaping):
    """Posteriors of frames under the teacher and a bigram of tokens together.

    q(t, v) = P(path_t = v | audio, LM): the share of the alignments with v at frame t
    in all alignments of all transcripts y, an alignment weighing

        prod_t p_T(t, path_t) prod_i P(y_i | y_(i-1))^lm_scale
            / P(y_i)^prior_scale exp(bonus) * P(end | y_U)^lm_scale

    The transcript is read again, from the best tokens of q: with `hard_ctc` it is the
    hard label of the same information. The gradient of `soft_ce` is p_S - q: not 0
    at p_S = p_T.

    Use: against sequences that the language does not have.

    Source: ours; the forward-backward algorithm on the product of CTC's topology and
    an n-gram, as in LF-MMI (Povey et al. 2016), whose denominator it is. Soft labels
    from a lattice with a strong LM: Manohar et al. 2018, "Semi-supervised training of
    acoustic models using lattice-free MMI".

    Known failure: it turns rare words into frequent ones, and a student that learns
    from it learns the LM. Compare with hard labels read from q, and decode with the LM.

    Args:
        lm: A bigram of the tokens: an ARPA file; must be given.
        lm_scale: Power of the LM, at least 0.
        prior_scale: Power of the LM's unigram, at least 0, by which it is divided: the
            teacher's posteriors have a prior of tokens already.
        bonus: Added to the log weight of each token, in nats, at least 0; against
            labels that get shorter.
        topk: Only tokens among the `topk` best of any frame of the utterance take
            part, at least 1; None is all. For word pieces: the cost is T times the
            square of their number.
    """

    def __init__(
        self,
        lm: TokenLM | None = None,
        lm_scale: float = 0.8,
        prior_scale: float = 0.4,
        bonus: float = 0.0,
        topk: int | None = None,
    ) -> None:
        if not isinstance(lm, TokenLM):
            raise ValueError(
                f"lm must be a bigram of the tokens, an ARPA file as `python -m "
                f"espnet_softpl.bin.token_lm` writes, got {lm!r}"
            )
        self.lm = lm
        self.lm_scale = not_negative("lm_scale", lm_scale)
        self.prior_scale = not_negative("prior_scale", prior_scale)
        self.bonus = not_negative("bonus", bonus)
        self.topk = None if topk is None else at_least("topk", topk, 1)

    @torch.no_grad()
    def __call__(self, label: PseudoLabel) -> PseudoLabel:
        """See `Shaping.__call__`."""
        return relabel(label, self.posteriors(label.log_probs, label.lengths))

    def posteriors(self, log_probs: Tensor, lengths: Tensor) -> Tensor:
        """Compute q, (B, T, V) to (B, T, V), at least in float32."""
        frames = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
        table = self.lm.log_probs.to(frames.device)
        prior = self.lm.unigram.to(frames.device)
        ends = self.lm_scale * self.lm.ends.to(frames.device)
        if self.topk is None:
            return lm_posterior(frames, lengths, self._weigh(table, prior), ends)
        tokens, few = frequent_tokens(frames, lengths, self.topk)
        table = table[tokens.unsqueeze(2), tokens.unsqueeze(1)]
        new_token = self._weigh(table, prior[tokens].unsqueeze(1))
        index = tokens.unsqueeze(1).expand(-1, frames.size(1), -1)
        few = lm_posterior(few, lengths, new_token, ends[tokens])
        none = torch.full_like(frames, -torch.inf)
        q = none.scatter_reduce(2, index, few, "amax")
        inside = frame_mask(lengths, frames.size(1)).unsqueeze(-1)
        return torch.where(inside, q, frames)

    def _weigh(self, table: Tensor, prior: Tensor) -> Tensor:
        """Weigh new tokens by P(v | u) in `table` and P(v) in `prior`, in nats."""
        return self.lm_scale * table - self.prior_scale * prior + self.bonus
