"""Small copies of frame posteriors, for a cache of soft labels.

A frame is kept as gaps: how many nats each token lies below the best one. That one has
gap 0 and every other a gap above 0 at any precision, so that rounding keeps the top
token; gaps are normalized when restored, so that any rounding gives a distribution.

B utterances, T frames after subsampling, V tokens with blank, N frames of all
utterances without padding, K tokens kept per frame, M of all frames.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from espnet_softpl.core.ranges import at_least, choice, fraction
from espnet_softpl.ctc import frame_mask, in_float32

PRECISIONS = ("float32", "float16", "uint8")

# Gaps are multiples of 2^-15 nats, at most 64: with float32 log-posteriors between
# -128 and 0 a gap is then found again exactly, and rounding is idempotent.
STEPS_PER_NAT = 2.0**15
MAX_GAP = 64.0

# One byte counts the steps of (p / p of the best token) ** (1 / 5). Even steps of the
# log-probability waste levels on tokens that hardly weigh, those of p itself lose all
# rare ones; roots 3 to 8 were measured (KL divergence, V = 31 and 5000): below 4 the
# tail of many tokens is cut off, above 6 the frequent tokens are coarse.
ROOT = 5.0
LEVELS = 256


@dataclasses.dataclass(frozen=True)
class Compression:
    """How a soft label is kept: how many tokens of a frame, and how exactly.

    The mass of the tokens that are not kept is spread evenly over them, and kept as one
    more gap, that of each of them. With `min_p` a frame keeps as many tokens as it
    needs, often one: about 0.1 / V changes `soft_ce` by 1 % (docs/benchmarks.md).

    Rounding errors, of the log-probability relative to the best token, u nats below
    it: `float32` 1.5e-5 nats; `float16` that or 0.05 % of u, whichever is more;
    `uint8` about exp(u / 5) / 100 nats, with u at most 28. In any, u is at most 64.
    Tokens that tie with the best one lie one step below it afterwards (3e-5 nats, with
    `uint8` 0.02).

    What was restored and is compressed again restores the same values, bit for bit,
    with the same settings on the same device.

    Source: ours; `min_p` is a rule for sampling from language models
    (https://arxiv.org/abs/2407.01082).
    """

    top_k: int | None = 32  # K, at least 1; more than V is V, None keeps all tokens.
    precision: str = "uint8"  # One of `PRECISIONS`, of the numbers kept.
    # Tokens of a smaller share of the best one's probability are not kept, in [0, 1].
    min_p: float | None = None

    def __post_init__(self) -> None:
        if self.top_k is not None:
            at_least("top_k", self.top_k, 1)
        choice("precision", self.precision, PRECISIONS)
        if self.min_p is not None:
            fraction("min_p", self.min_p)

    @torch.no_grad()
    def compress(
        self, log_probs: torch.Tensor, lengths: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Make the small copy, on the CPU, of log-posteriors (B, T, V), lengths (B,).

        ValueError if a frame has no finite best token.

        Returns:
            Frames of one utterance after the other. With K < V: `tokens` (N, K), the
            best one first, uint8, int16 or int32 by V; `gaps` (N, K), of the second to
            the K-th token and of each of the rest. Else only `gaps` (N, V). With
            `min_p` both are (M,), and `counts` (N,) says how many are whose.
        """
        mask = frame_mask(lengths.to(log_probs.device), log_probs.size(1))
        frames = in_float32(log_probs[mask])
        best, best_token = frames.max(-1, keepdim=True)
        if not best.isfinite().all():
            raise ValueError("log_probs hold a frame with NaN, or with nothing finite")
        heights = frames.sub_(best).float()  # A copy already; large ones cost time.
        vocabulary = log_probs.size(-1)
        top_k = vocabulary if self.top_k is None else self.top_k
        if self.min_p is not None and vocabulary > 1:
            top_k = min(top_k, vocabulary - 1)
        if top_k >= vocabulary:
            packed = _encode(heights.neg_(), self.precision).scatter_(1, best_token, 0)
            return {"gaps": packed.cpu()}
        tokens, gaps = _nearest(heights, best_token, top_k)
        # The smallest type that numbers the tokens and can be indexed with.
        wide = torch.int16 if vocabulary <= 2**15 else torch.int32
        small = torch.uint8 if vocabulary <= 2**8 else wide
        packed = {"tokens": tokens, "gaps": gaps}
        if self.min_p is not None:
            packed = _probable(tokens, gaps, vocabulary, self._is_kept(gaps))
            packed["counts"] = packed["counts"].to(small)
        packed["tokens"] = packed["tokens"].to(small)
        packed["gaps"] = _encode(packed["gaps"], self.precision)
        return {name: tensor.cpu() for name, tensor in packed.items()}

    def _is_kept(self, gaps: torch.Tensor) -> torch.Tensor:
        """Tell of the best token and those of all gaps but the last, (N, K)."""
        # Judged after rounding, so that it is the same of what was restored.
        rounded = _decode(_encode(gaps[:, :-1].clone(), self.precision))
        kept = torch.ones_like(gaps, dtype=torch.bool)
        kept[:, 1:] = rounded.neg_().exp_() >= self.min_p
        return kept

    @torch.no_grad()
    def restore(
        self,
        packed: dict[str, torch.Tensor],
        lengths: torch.Tensor,
        num_frames: int,
        vocabulary: int,
    ) -> torch.Tensor:
        """Make log-posteriors of what `compress` returned, with any settings.

        `lengths`, (B,), are those given to it; T may differ. ValueError if the copy is
        not of as many frames or tokens.

        Returns:
            (B, T, V), float32, on the device of the lengths. Every frame is a
            distribution (its sum is 1 within 1e-6 for hundreds of tokens) with the best
            token of the original, the first of several; padding is uniform.
        """
        gaps = _decode(packed["gaps"].to(lengths.device))
        tokens, counts = packed.get("tokens"), packed.get("counts")
        mask = frame_mask(lengths, num_frames)
        columns = vocabulary if tokens is None else tokens.size(-1)
        shape = (int(mask.sum()), columns)
        if counts is not None:
            gaps_of = gaps.shape == tokens.shape and counts.long().sum() == columns
            columns = int(counts.max()) + 1 if counts.numel() else 0
            shape = gaps.shape if gaps_of and len(counts) == shape[0] else ()
        longest = int(lengths.max()) if lengths.numel() else 0
        if gaps.shape != shape or columns > vocabulary or longest > num_frames:
            raise ValueError(
                f"a copy of gaps {tuple(gaps.shape)} is not of {vocabulary} tokens "
                f"in {int(lengths.sum())} frames, at most {num_frames} each"
            )
        if counts is not None:
            counts, tokens = (
                t.to(lengths.device, torch.long) for t in (counts, tokens)
            )
            padded = gaps.new_full((*mask.shape, vocabulary), -math.log(vocabulary))
            if counts.numel():
                padded[mask] = _spread_some(tokens, gaps, counts, vocabulary)
            return padded
        # Equal gaps of 0 are the uniform distribution: the padding.
        padded = gaps.new_zeros(*mask.shape, columns)
        padded[mask] = gaps
        if tokens is None:
            return padded.neg_().log_softmax(-1)
        places = tokens.new_zeros(padded.shape, dtype=torch.long, device=lengths.device)
        places[mask] = tokens.to(lengths.device, torch.long)
        return _spread(places, padded, vocabulary)


def _nearest(
    heights: torch.Tensor, best_token: torch.Tensor, top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pick the tokens of the smallest gaps, and share out the mass of the others.

    Overwrites `heights` (N, V), which are gaps with a minus; `best_token` (N, 1) is the
    first of height 0.
    """
    # Of several tokens of height 0, `topk` may put any first.
    heights.scatter_(1, best_token, 1.0)
    kept, tokens = heights.topk(top_k, dim=1)
    kept.neg_()[:, 0] = 0.0
    rest = heights.scatter_(1, tokens, -math.inf).exp_().sum(1, keepdim=True)
    # No nearer than the last one kept, which rounding of the sum could bring about.
    each = math.log(heights.size(1) - top_k) - rest.log()
    return tokens, torch.cat([kept[:, 1:], each.maximum(kept[:, -1:])], 1)


def _spread(tokens: torch.Tensor, gaps: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Invert `_nearest`, (B, T, K) twice, and normalize to (B, T, V)."""
    probs = gaps.neg().exp_()
    probs[..., -1] *= vocabulary - gaps.size(-1)
    total = probs.sum(-1, keepdim=True).add_(1.0).log_()
    below = gaps.add(total).neg_()
    log_probs = below[..., -1:].expand(*gaps.shape[:-1], vocabulary).contiguous()
    return log_probs.scatter_(2, tokens, torch.cat([-total, below[..., :-1]], -1))


def _probable(
    tokens: torch.Tensor, gaps: torch.Tensor, vocabulary: int, kept: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Keep some of what `_nearest` returned, the nearest ones of each frame (N, K)."""
    counts = kept.sum(1)
    near = torch.cat([torch.zeros_like(gaps[:, :1]), gaps[:, :-1]], 1)
    rest = near.neg().exp_().masked_fill_(kept, 0.0).sum(1)
    rest += gaps[:, -1].neg().exp_() * (vocabulary - gaps.size(1))
    each = (vocabulary - counts).log() - rest.log()
    # No nearer than the first one left out, which rounding could bring about.
    first = torch.cat([near, gaps[:, -1:]], 1).gather(1, counts[:, None])
    last = counts[:, None] - 1
    # Nothing changes in a frame of which all K tokens are kept.
    each = torch.where(counts == gaps.size(1), gaps[:, -1], each.maximum(first[:, 0]))
    gaps = gaps.scatter(1, last, each[:, None])
    return {"tokens": tokens[kept], "gaps": gaps[kept], "counts": counts}


def _spread_some(
    tokens: torch.Tensor, gaps: torch.Tensor, counts: torch.Tensor, vocabulary: int
) -> torch.Tensor:
    """Invert `_probable`, (M,) twice and (N,), and normalize to (N, V)."""
    kept = torch.arange(int(counts.max()), device=counts.device) < counts[:, None]
    wide = torch.zeros_like(kept, dtype=gaps.dtype).masked_scatter_(kept, gaps)
    rest = wide.gather(1, counts[:, None] - 1)
    near = torch.cat([torch.zeros_like(rest), wide[:, :-1]], 1)
    total = near.neg().exp_().mul_(kept).sum(1, keepdim=True)
    total += rest.neg().exp_() * (vocabulary - counts[:, None])
    total.log_()
    # A frame with less tokens than another writes its best one several times.
    near.masked_fill_(~kept, 0.0)
    places = torch.zeros_like(kept, dtype=torch.long).masked_scatter_(kept, tokens)
    places = torch.where(kept, places, places[:, :1])
    below = (rest + total).neg_().expand(-1, vocabulary).contiguous()
    return below.scatter_(1, places, (near + total).neg_())


def _encode(gaps: torch.Tensor, precision: str) -> torch.Tensor:
    """Round gaps to a precision, away from 0 where they are near it."""
    if precision == "uint8":
        levels = LEVELS - LEVELS * (gaps / -ROOT).exp_()
        return levels.round_().clamp_(1, LEVELS - 1).to(torch.uint8)
    steps = (gaps.clamp(max=MAX_GAP) * STEPS_PER_NAT).round_().clamp_(min=1.0)
    return steps.div_(STEPS_PER_NAT).to(getattr(torch, precision))


def _decode(gaps: torch.Tensor) -> torch.Tensor:
    """Return encoded gaps in nats, float32."""
    if gaps.dtype is not torch.uint8:
        return gaps.float()
    return (gaps.float() / -LEVELS).log1p_().mul_(-ROOT)
