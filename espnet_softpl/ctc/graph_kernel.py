"""The sum over a confusion network's paths and alignments, compiled for the CPU.

The recursion of `espnet_softpl.ctc.graph`, which explains the states, in float64 and in
probabilities. Every frame is divided by the largest emission of the network's own
tokens, and alpha and beta by their sums, so that nothing stored is above a few ones.
With exit i = blank i + labels of bin i before the frame,

    reach j = exit j-1 + skips_(j-1) reach j-1      what can enter bin j
    label s = (label s + w_s reach j) p_s           without rivals, see `_entered`
    blank j = exit j p_blank

and backward likewise. A transcript is a network of one alternative per bin.

Why rounding to 0 is harmless: a number below TINY is taken as 0. What such a number
adds to the total is at most TINY times a beta (or alpha), at most a few ones, and the
total is the frame's sum of alpha times beta in the same units. If that sum is at least
ENOUGH in every frame, all that was lost is below 1e-20 of it. If it is not, the network
is not `trusted`, and `graph` computes it in log space: impossible ones, broken frames,
and models that find their target less likely than about e^-600 of what they would
rather say.
"""

# ruff: noqa: ANN001, ANN202

import math

import numpy as np

from espnet_softpl.ctc.kernels import compiled

TINY = 1e-290
ENOUGH = 1e-260


@compiled
def _find_rivals(j, first, symbols, skips, rivals):
    """Mark the labels of bin j and of those that it may follow that share a token."""
    i = j - 1
    while i > 0:
        for one in range(first[i], first[i + 1]):
            for other in range(first[j], first[j + 1]):
                if symbols[one] == symbols[other]:
                    rivals[other] |= 1
                    rivals[one] |= 2
        i = i - 1 if skips[i] > 0 else 0


@compiled
def lay_out(tokens, weights, skips, bins, num_tokens) -> tuple:
    """Number the labels of each network bin by bin, and its distinct tokens.

    Args:
        tokens: Alternatives, int64, (P, M, A), padded with -1.
        weights: Their probabilities, float64, (P, M, A); one of 0 is not there.
        skips: Probability of epsilon, float64, (P, M).
        bins: Bins of each network, int64, (P,).
        num_tokens: V; tokens are in [1, V).

    Returns:
        first (P, M + 2), the first label of each bin from 0, the start, which has none;
        symbols (P, S), the number of each label's token in tokens_of; tokens_of (P, D),
        the distinct tokens, blank first; sizes (P,), how many; weights (P, S); skips
        (P, M + 1), 0 for the start; rivals (P, S): 1 if a label may follow one of its
        own token, plus 2 if it may be followed by one.

    Raises:
        ValueError: A token is not in [1, V), or `bins` not in [0, M].
    """
    num, max_bins, width = tokens.shape
    first = np.zeros((num, max_bins + 2), np.int64)
    symbols = np.zeros((num, max_bins * width), np.int64)
    tokens_of = np.zeros((num, 1 + min(max_bins * width, num_tokens - 1)), np.int64)
    sizes = np.ones(num, np.int64)
    label_weights = np.zeros(symbols.shape)
    all_skips = np.zeros((num, max_bins + 1))
    rivals = np.zeros(symbols.shape, np.int64)
    known = np.zeros(num_tokens, np.int64)
    for p in range(num):
        if not 0 <= bins[p] <= max_bins:
            raise ValueError("a network or transcript is longer than its padding")
        label = 0
        for j in range(1, bins[p] + 1):
            first[p, j] = label
            all_skips[p, j] = skips[p, j - 1]
            for a in range(width):
                token = tokens[p, j - 1, a]
                if token == -1 or not weights[p, j - 1, a] > 0:
                    continue
                if not 1 <= token < num_tokens:
                    raise ValueError("a token is not in [1, V)")
                if known[token] == 0:
                    known[token] = sizes[p]
                    tokens_of[p, sizes[p]] = token
                    sizes[p] += 1
                symbols[p, label] = known[token]
                label_weights[p, label] = weights[p, j - 1, a]
                label += 1
            first[p, j + 1] = label
            _find_rivals(j, first[p], symbols[p], all_skips[p], rivals[p])
        for token in tokens_of[p, : sizes[p]]:
            known[token] = 0
    return first, symbols, tokens_of, sizes, label_weights, all_skips, rivals


@compiled
def _entered(before, j, label, first, symbols, skips):
    """Sum what can enter a label of bin j that has rivals, from `before` the frame.

    Added up, not subtracted from reach j: a rival may be nearly all of it.
    """
    num_labels = symbols.size
    total, factor, i = 0.0, 1.0, j - 1
    while True:
        part = before[num_labels + i]
        for k in range(first[i], first[i + 1]):
            if symbols[k] != symbols[label]:
                part += before[k]
        total += factor * part
        factor *= skips[i]
        if factor == 0.0:
            return total
        i -= 1


@compiled
def _followed(said, j, label, first, symbols, weights, skips, num_bins):
    """Sum what a label of bin j with rivals can go on to, from what they bring back."""
    num_labels = symbols.size
    total, factor, i = said[num_labels + j], 1.0, j + 1
    while i <= num_bins and factor > 0.0:
        for k in range(first[i], first[i + 1]):
            if symbols[k] != symbols[label]:
                total += factor * weights[k] * said[k]
        factor *= skips[i]
        i += 1
    return total


@compiled
def _emissions(frames, emissions):
    """Fill (T, D) with probabilities in units of each frame's largest.

    Returns the sum of the logs of these units.
    """
    units = 0.0
    for t in range(len(emissions)):
        unit = -np.inf
        for d in range(emissions.shape[1]):
            # The comparison is false for NaN, which spreads from here on.
            if not frames[t, d] <= unit:
                unit = float(frames[t, d])
        units += unit
        for d in range(emissions.shape[1]):
            emissions[t, d] = math.exp(frames[t, d] - unit)
    return units


@compiled
def _forward(emissions, first, symbols, weights, skips, rivals, alpha):
    """Fill alpha (T + 1, S + M + 1), labels before blanks; return the log of its units.

    Row t is in units of the sum of row t - 1.
    """
    num_labels, num_bins = symbols.size, skips.size - 1
    alpha[0] = 0.0
    alpha[0, num_labels] = 1.0
    total, units = 1.0, 0.0
    for t in range(1, len(alpha)):
        before, after, emission = alpha[t - 1], alpha[t], emissions[t - 1]
        units += math.log(total)
        scale = 1.0 / total
        blank = emission[0] * scale
        leave = before[num_labels]
        reach = 0.0
        after[num_labels] = total = leave * blank
        for j in range(1, num_bins + 1):
            reach = leave + skips[j - 1] * reach
            leave = before[num_labels + j]
            for k in range(first[j], first[j + 1]):
                source = reach
                if rivals[k] & 1:
                    source = _entered(before, j, k, first, symbols, skips)
                leave += before[k]
                value = (before[k] + weights[k] * source) * emission[symbols[k]] * scale
                after[k] = value = 0.0 if value < TINY else value
                total += value
            value = leave * blank
            after[num_labels + j] = value = 0.0 if value < TINY else value
            total += value
        if not total >= ENOUGH:
            return np.nan
    return units


@compiled
def _ends(first, skips, beta):
    """Fill beta (S + M + 1) after the last frame: all bins that follow are skipped."""
    num_bins = skips.size - 1
    num_labels = beta.size - num_bins - 1
    tail = 1.0
    for j in range(num_bins, -1, -1):
        beta[num_labels + j] = tail
        beta[first[j] : first[j + 1]] = tail
        tail *= skips[j]


@compiled
def _backward(
    emissions, first, symbols, weights, skips, rivals, alpha, beta, occupancy
):
    """Fill occupancy (T, D) from alpha and the beta after the last frame.

    Returns whether alpha times beta is enough in every frame.
    """
    num_labels, num_bins = symbols.size, skips.size - 1
    said, shares = np.empty_like(beta), np.empty(emissions.shape[1])
    scale = 1.0
    for t in range(len(emissions), 0, -1):
        emission, row = emissions[t - 1], alpha[t]
        shares[:] = 0.0
        for k in range(num_labels):
            shares[symbols[k]] += row[k] * beta[k]
            said[k] = beta[k] * emission[symbols[k]] * scale
        for k in range(num_labels, beta.size):
            shares[0] += row[k] * beta[k]
            said[k] = beta[k] * emission[0] * scale
        overlap = shares.sum()
        if not overlap >= ENOUGH:
            return False
        for d in range(shares.size):
            occupancy[t - 1, d] = shares[d] / overlap
        reach = total = 0.0
        for j in range(num_bins, -1, -1):
            follow = said[num_labels + j] + reach
            beta[num_labels + j] = follow = 0.0 if follow < TINY else follow
            total += follow
            entering = 0.0
            for k in range(first[j], first[j + 1]):
                entering += weights[k] * said[k]
                value = said[k]
                if rivals[k] & 2:
                    value += _followed(
                        said, j, k, first, symbols, weights, skips, num_bins
                    )
                else:
                    value += follow
                beta[k] = value = 0.0 if value < TINY else value
                total += value
            reach = entering + skips[j] * reach
        scale = 1.0 / total
    return True


@compiled
def forward_backward(frames, lengths, bins, layout, losses, occupancy) -> None:
    """Compute the loss of each network and the occupancies of its tokens.

    Args:
        frames: Log-probabilities of the network's tokens, (P, T, D); what is beyond its
            `sizes` is not read.
        lengths: Frames of each network's utterance, int64, (P,).
        bins: Bins of each network, int64, (P,).
        layout: What `lay_out` returns.
        losses: To be filled, (P,), in nats; NaN if not trusted.
        occupancy: To be filled, (P, T, D): the probability that a frame emits each of
            the network's tokens. What is beyond an utterance's frames, or not trusted,
            stays as it is.

    Raises:
        ValueError: `lengths` is not in [0, T].
    """
    first, symbols, _, sizes, weights, skips, rivals = layout
    for p in range(bins.size):
        num_frames, num_bins = lengths[p], bins[p]
        if not 0 <= num_frames <= frames.shape[1]:
            raise ValueError("lengths must be in [0, T]")
        labels = first[p, num_bins + 1]
        own = first[p], symbols[p, :labels], weights[p], skips[p, : num_bins + 1]
        alpha = np.empty((num_frames + 1, labels + num_bins + 1))
        beta = np.empty(alpha.shape[1])
        emissions = np.empty((num_frames, sizes[p]))
        losses[p] = np.nan
        units = _emissions(frames[p], emissions)
        units += _forward(emissions, *own, rivals[p], alpha)
        _ends(first[p], own[3], beta)
        total = (alpha[num_frames] * beta).sum()
        if math.isnan(units) or not total >= ENOUGH:
            continue
        if _backward(emissions, *own, rivals[p], alpha, beta, occupancy[p]):
            losses[p] = -(units + math.log(total))
