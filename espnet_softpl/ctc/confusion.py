"""A confusion network of hypotheses: one bin of weighted alternatives per position.

N hypotheses, M bins, A alternatives per bin. Alternatives of different bins combine
freely, so that a network holds more transcripts than the list it came from. As the
target of a CTC loss: `espnet_softpl.ctc.graph`.
"""

from itertools import chain
from typing import NamedTuple

import torch
from kaldialign import align
from torch import Tensor

from espnet_softpl.core.ranges import at_least
from espnet_softpl.ctc import PADDING

# Tokens and probabilities of one bin; the token PADDING stands for epsilon.
_Bin = dict[int, float]
_Alignment = list[tuple[int, int]]


class ConfusionNetwork(NamedTuple):
    """The hypotheses of B utterances, bin by bin.

    The weights of a bin and its epsilon (taking no token there) sum to 1. The weight of
    a path is the product over the bins of what it takes there.
    """

    tokens: Tensor  # Alternatives of each bin, (B, M, A), padded with -1.
    weights: Tensor  # Their probabilities, (B, M, A), 0 if padded.
    skips: Tensor  # Probability of epsilon, (B, M), 1 in padded bins.
    bins: Tensor  # Bins of each utterance, (B,), from 0 to M.


def confusion_network(
    tokens: Tensor, token_lengths: Tensor, probs: Tensor, max_gap: int = 4
) -> ConfusionNetwork:
    """Merge each utterance's list of weighted hypotheses into a confusion network.

    Every hypothesis is aligned with the first one of its list, the pivot. Each token
    of the pivot makes a bin; tokens inserted between two of them make further bins,
    the k-th insertion of any hypothesis going to the k-th bin of that gap.

    Args:
        tokens: Hypotheses, best first, (B, N, U), padded with any value.
        token_lengths: Tokens per hypothesis, (B, N).
        probs: Probability of each hypothesis, (B, N), summing to 1 per utterance.
            A hypothesis of probability 0 is not there.
        max_gap: Longest run of insertions and deletions that a hypothesis may have
            against the pivot, at least 0; one with a longer run is left out and the
            others share its probability. Each run makes as many skippable bins, and
            the cost of the loss grows with the longest run of those; runs of several
            hypotheses may join to a longer one.

    Returns:
        The network, in the type of `probs`. One hypothesis alone makes the plain
        transcript: weights of 1, skips of 0.

    Raises:
        ValueError: `max_gap` is negative, or an utterance has no hypothesis of
            positive probability.
    """
    at_least("max_gap", max_gap, 0)
    utterances = []
    columns = tokens.tolist(), token_lengths.tolist(), probs.tolist()
    for row, lengths, masses in zip(*columns):
        present = [
            (hypothesis[:length], mass)
            for hypothesis, length, mass in zip(row, lengths, masses)
            if mass > 0
        ]
        if not present:
            raise ValueError(f"an utterance has no hypothesis: its probs are {masses}")
        utterances.append(_merge(present, max_gap))
    return _collate(utterances, tokens.device, probs.dtype)


def _merge(hypotheses: list[tuple[list[int], float]], max_gap: int) -> list[_Bin]:
    """Make the bins of one utterance from its (tokens, probability) pairs."""
    pivot = hypotheses[0][0]
    kept = [(list(zip(pivot, pivot)), hypotheses[0][1])]
    for tokens, mass in hypotheses[1:]:
        pairs = align(pivot, tokens, PADDING)
        gaps_in_all = 2 * len(pairs) - len(pivot) - len(tokens)
        if gaps_in_all <= max_gap or _longest_gap(pairs) <= max_gap:
            kept.append((pairs, mass))
    total = sum(mass for _, mass in kept)
    positions: list[_Bin] = [{} for _ in pivot]
    gaps: list[list[_Bin]] = [[] for _ in range(len(pivot) + 1)]
    for pairs, mass in kept:
        _add(pairs, mass / total, positions, gaps)
    for inserted in chain.from_iterable(gaps):
        # Not below 0, where rounding makes up for a pivot of nearly no probability.
        inserted[PADDING] = max(0.0, 1.0 - sum(inserted.values()))
    bins = list(gaps[0])
    for position, gap in zip(positions, gaps[1:]):
        bins += [position, *gap]
    return bins


def _longest_gap(pairs: _Alignment) -> int:
    """Count the pairs of the longest run without a match or substitution."""
    longest = run = 0
    for pair in pairs:
        run = run + 1 if PADDING in pair else 0
        longest = max(longest, run)
    return longest


def _add(
    pairs: _Alignment, mass: float, positions: list[_Bin], gaps: list[list[_Bin]]
) -> None:
    """Add one aligned hypothesis to the bins of the pivot and of its gaps."""
    position = inserted = 0
    for pivot_token, token in pairs:
        if pivot_token == PADDING:
            gap = gaps[position]
            if inserted == len(gap):
                gap.append({})
            place = gap[inserted]
            inserted += 1
        else:
            place = positions[position]
            position += 1
            inserted = 0
        place[token] = place.get(token, 0.0) + mass


def _collate(
    utterances: list[list[_Bin]], device: torch.device, dtype: torch.dtype
) -> ConfusionNetwork:
    """Pad the bins of B utterances into one network."""
    skips = [[place.pop(PADDING, 0.0) for place in places] for places in utterances]
    num_bins = max(map(len, utterances), default=0)
    width = max((len(place) for place in chain.from_iterable(utterances)), default=1)
    tokens, weights = [], []
    for places, row in zip(utterances, skips):
        padded = places + [{}] * (num_bins - len(places))
        row += [1.0] * (num_bins - len(row))
        tokens.append([[*b, *[PADDING] * (width - len(b))] for b in padded])
        weights.append([[*b.values(), *[0.0] * (width - len(b))] for b in padded])
    shape = (len(utterances), num_bins, width)
    return ConfusionNetwork(
        torch.tensor(tokens, dtype=torch.long, device=device).view(shape),
        torch.tensor(weights, dtype=dtype, device=device).view(shape),
        torch.tensor(skips, dtype=dtype, device=device).view(shape[:2]),
        torch.tensor([len(places) for places in utterances], device=device),
    )
