"""The prefix beam search of `espnet_softpl.ctc.beam_search`, compiled for the CPU.

One utterance after the other, in float64. Prefixes are nodes of a tree, each with its
parent and its last token, so that equal prefixes are one node and nothing is hashed.
For W = 2, after a frame that said "a" or "b" and one that says "b":

    beam: "a" = node 1 (parent 0, a), "b" = node 2 (parent 0, b)
    "a" + b is no child of node 1 as yet: node 3 (parent 1, b) if it is kept
    "b" + b needs a blank between: only the mass of "b" that ends in blank extends it

A node that leaves the beam stays in the tree, and is found there if it comes back, for
its children may still be in the beam. Equal scores keep the order of the candidates:
prefixes as they are, best first, then the best prefix with each of the frame's tokens,
then the second, and so on.
"""

# ruff: noqa: ANN001, ANN202

import math

import numpy as np

from espnet_softpl.ctc.kernels import compiled

LANES = 64  # Numbers that the compiler compares side by side.


@compiled
def _log_add(one, other):
    """Add two masses."""
    if one < other:
        one, other = other, one
    if other == -np.inf or one - other > 40.0:  # It is below the last bit.
        return one
    return one + math.log1p(math.exp(other - one))


@compiled
def _insert(scores, indices, count, score, index):
    """Insert into the best, in order, behind equal ones; return how many there are."""
    place = count
    if count == scores.size:
        if score <= scores[count - 1]:
            return count
        place = count - 1
    else:
        count += 1
    while place > 0 and scores[place - 1] < score:
        scores[place] = scores[place - 1]
        indices[place] = indices[place - 1]
        place -= 1
    scores[place] = score
    indices[place] = index
    return count


@compiled
def _best_tokens(frame, peaks, scores, tokens):
    """Fill the C best tokens of a frame (V,), blank left out, with their scores.

    All of them in their order if there is room. If there are many, each of the `peaks`
    is the best of every LANES-th token, and the C-th best peak is one that the C-th
    best token reaches: two passes without branches leave few tokens to be put in order.
    Of a frame with NaN the scores have one as well.
    """
    if tokens.size == frame.size - 1:
        for place in range(tokens.size):
            scores[place] = frame[place + 1]
            tokens[place] = place + 1
        return
    peaks[:] = -np.inf
    if frame.size > 4 * peaks.size:
        for start in range(1, frame.size, peaks.size):
            block = frame[start : start + peaks.size]
            for lane in range(block.size):
                value = block[lane]
                peaks[lane] = value if value > peaks[lane] else peaks[lane]
        count = 0
        for lane in range(peaks.size):
            count = _insert(scores, tokens, count, peaks[lane], lane)
        peaks[0] = scores[-1]
    enough = peaks[0]  # In the frame's type.
    count = 0
    for start in range(1, frame.size, peaks.size):
        block = frame[start : start + peaks.size]
        good = np.int32(0)
        for lane in range(block.size):
            good += np.int32(not block[lane] < enough)
        for lane in range(block.size if good > 0 else 0):
            if math.isnan(block[lane]):
                scores[0] = np.nan
                return
            if not block[lane] < enough:
                count = _insert(scores, tokens, count, block[lane], start + lane)


@compiled
def _child(node, token, tree):
    """Find the node of a prefix with one more token, or make it."""
    parents, last, child, sibling = tree[0], tree[1], tree[2], tree[3]
    found = child[node]
    while found >= 0 and last[found] != token:
        found = sibling[found]
    if found < 0:
        found = parents[-1]
        parents[-1] += 1
        parents[found], last[found] = node, token
        sibling[found], child[node] = child[node], found
    return found


@compiled
def _stay(frame, said, extensions, beam, tree, stays, merged):
    """Fill what the prefixes of a beam have after a frame that adds no token to them.

    `stays` (3, W): the log-mass that ends in blank, that ends in the last token, and
    both. A prefix is also its parent with one more token, and takes that mass as well;
    `merged` (C, W) marks what was taken.
    """
    nodes, mass, width = beam
    parents, last, slots = tree[0], tree[1], tree[4]
    merged[:] = False
    for w in range(width):
        node = nodes[w]
        stays[0, w] = mass[2, w] + frame[0]
        stays[1, w] = -np.inf
        if node > 0:
            stays[1, w] = mass[1, w] + frame[last[node]]
            parent = slots[parents[node]]
            for c in range(said.size if parent >= 0 else 0):
                if said[c] == last[node]:
                    source = mass[0 if last[nodes[parent]] == said[c] else 2, parent]
                    stays[1, w] = _log_add(stays[1, w], source + extensions[c])
                    merged[c, parent] = True
        stays[2, w] = _log_add(stays[0, w], stays[1, w])


@compiled
def _rank(said, extensions, beam, last, stays, merged, best, indices):
    """Find the best candidates, row * W + slot; row 0 stays, row c + 1 adds token c.

    Returns how many there are.
    """
    nodes, mass, width = beam
    count = 0
    for w in range(width):
        if stays[2, w] > -np.inf:
            count = _insert(best, indices, count, stays[2, w], w)
    for w in range(width):
        for c in range(said.size):
            # A second equal token needs a blank between.
            score = mass[0 if last[nodes[w]] == said[c] else 2, w] + extensions[c]
            if score > -np.inf and not merged[c, w]:
                index = (c + 1) * best.size + w
                count = _insert(best, indices, count, score, index)
    return count


@compiled
def _keep(said, beam, tree, stays, best, indices, count, grown):
    """Make the next beam of `count` candidates: nodes and masses go to `grown`."""
    nodes, _, width = beam
    slots = tree[4]
    for w in range(width):
        slots[nodes[w]] = -1
    for w in range(count):
        row, source = indices[w] // best.size, indices[w] % best.size
        if row == 0:
            grown[0][w] = nodes[source]
            for part in range(3):
                grown[1][part, w] = stays[part, source]
        else:
            grown[0][w] = _child(nodes[source], said[row - 1], tree)
            grown[1][0, w] = -np.inf
            grown[1][1, w] = grown[1][2, w] = best[w]
        slots[grown[0][w]] = w


@compiled
def _spell(node, tree, tokens):
    """Write a prefix, from its last token to its first; return its length."""
    parents, last = tree[0], tree[1]
    length, end = 0, node
    while end > 0:
        length += 1
        end = parents[end]
    for place in range(length - 1, -1, -1):
        tokens[place] = last[node]
        node = parents[node]
    return length


@compiled
def _search(frames, beam_size, choices, tokens, lengths, scores):
    """Search one utterance, frames (T, V), as `search` does a batch."""
    size = len(frames) * beam_size + 2
    # Parent, last token, first child, next child of the same parent, slot in the beam;
    # -1 for none. How many nodes there are stands at the end of the first.
    tree = np.full((5, size), -1)
    tree[1, 0] = tree[4, 0] = 0
    tree[0, -1] = 1
    nodes, mass = np.zeros(beam_size, np.int64), np.zeros((3, beam_size))
    mass[1, 0] = -np.inf
    grown = np.empty_like(nodes), np.empty_like(mass)
    best, indices = np.empty(beam_size), np.empty(beam_size, np.int64)
    said, extensions = np.empty(choices, np.int64), np.empty(choices)
    stays, merged = np.empty((3, beam_size)), np.empty((choices, beam_size), np.bool_)
    peaks = np.empty(max(LANES, choices), frames.dtype)
    width = 1
    for t in range(len(frames)):
        _best_tokens(frames[t], peaks, extensions, said)
        if math.isnan(frames[t, 0]) or math.isnan(extensions.sum()):
            scores[:] = np.nan
            return
        beam = nodes, mass, width
        _stay(frames[t], said, extensions, beam, tree, stays, merged)
        width = _rank(said, extensions, beam, tree[1], stays, merged, best, indices)
        _keep(said, beam, tree, stays, best, indices, width, grown)
        (nodes, mass), grown = grown, (nodes, mass)
    for n in range(min(width, scores.size)):
        scores[n] = mass[2, n]
        lengths[n] = _spell(nodes[n], tree, tokens[n])


@compiled
def search(
    log_probs, lengths, beam_size, choices, tokens, token_lengths, scores
) -> None:
    """Find the best transcripts of each utterance.

    Args:
        log_probs: Frames, (B, T, V).
        lengths: Frames of each utterance, int64, (B,).
        beam_size: W.
        choices: C, the tokens that may extend a prefix, 0 to V - 1.
        tokens: To be filled, int64, (B, N, T), with -1 in it.
        token_lengths: To be filled, int64, (B, N), with 0 in it.
        scores: To be filled, (B, N), with -inf in it; NaN if a frame is.

    Raises:
        ValueError: `lengths` is not in [0, T].
    """
    for b in range(lengths.size):
        if not 0 <= lengths[b] <= log_probs.shape[1]:
            raise ValueError("lengths must be in [0, T]")
        frames = log_probs[b, : lengths[b]]
        found = tokens[b], token_lengths[b], scores[b]
        _search(frames, beam_size, choices, *found)
