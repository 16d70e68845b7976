"""The prefix beam search of `espnet_softpl.ctc.beam_search`, compiled for the CPU.

One utterance after the other, in float64. Prefixes are nodes of a tree, each with its
parent and its last token, so that equal prefixes are one node and nothing is hashed.
For W = 2, after a frame that said "a" or "b" and one that says "b":

    beam: "a" = node 1 (parent 0, a), "b" = node 2 (parent 0, b)
    "a" + b is no child of node 1 as yet: node 3 (parent 1, b) if it is kept
    "b" + b needs a blank between: only the mass of "b" that ends in blank extends it

A node that leaves the beam stays in the tree, and is found there if it comes back, for
its children may still be in the beam. Equal scores keep the order of the candidates:
prefixes as they are, best first, then those extended by the first of the frame's
tokens, by the second, and so on.
"""

# ruff: noqa: ANN001, ANN202

import math

import numpy as np

from espnet_softpl.ctc.kernels import compiled

BLOCK = 128


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
def _best_tokens(frame, scores, tokens):
    """Fill the best tokens of a frame (V,), blank left out, with their scores.

    All of them in their order if there is room. A block is looked at only if a count,
    which the compiler does many at a time, finds something better than the worst so
    far, or NaN, which counts as better than all.
    """
    if tokens.size == frame.size - 1:
        for token in range(1, frame.size):
            scores[token - 1] = frame[token]
            tokens[token - 1] = token
        return
    count = 0
    for start in range(1, frame.size, BLOCK):
        block = frame[start : start + BLOCK]
        worst = scores[-1] if count == tokens.size else -np.inf
        better = 0
        for value in block:
            better += not value <= worst
        if better == 0 and count == tokens.size:
            continue
        for place in range(block.size):
            count = _insert(scores, tokens, count, block[place], start + place)


@compiled
def _child(node, token, nodes, parents, last, child, sibling):
    """Find the node of a prefix with one more token; a new one has number `nodes`."""
    found = child[node]
    while found >= 0 and last[found] != token:
        found = sibling[found]
    if found < 0:
        found = nodes
        parents[found], last[found] = node, token
        child[found], sibling[found] = -1, child[node]
        child[node] = found
    return found


@compiled
def _search(frames, beam_size, choices, tokens, lengths, scores):
    """Search one utterance, frames (T, V), as `search` does a batch.

    `choices` is C. Returns False if a number that the search needs is NaN.
    """
    size = len(frames) * beam_size + 1
    parents, last = np.empty(size, np.int64), np.empty(size, np.int64)
    child, sibling = np.empty(size, np.int64), np.empty(size, np.int64)
    slots = np.full(size, -1)  # Where in the beam a node is, -1 if it is not.
    parents[0], last[0], child[0], sibling[0] = -1, 0, -1, -1
    slots[0] = 0
    nodes = 1
    beam, beam_next = np.zeros(beam_size, np.int64), np.zeros(beam_size, np.int64)
    # Log-mass that ends in blank, that ends in the last token, and both.
    mass, mass_next = np.zeros((3, beam_size)), np.zeros((3, beam_size))
    mass[1, 0] = -np.inf
    width = 1
    best, indices = np.empty(beam_size), np.empty(beam_size, np.int64)
    said, extensions = np.empty(choices, np.int64), np.empty(choices)
    stays, merged = np.empty((3, beam_size)), np.empty((choices, beam_size), np.bool_)
    for t in range(len(frames)):
        frame = frames[t]
        _best_tokens(frame, extensions, said)
        if math.isnan(frame[0] + extensions.sum()) and (
            math.isnan(frame[0]) or np.isnan(extensions).any()
        ):
            return False
        merged[:] = False
        count = 0
        for w in range(width):
            node = beam[w]
            stays[0, w] = mass[2, w] + frame[0]
            nonblank = -np.inf
            if node > 0:
                nonblank = mass[1, w] + frame[last[node]]
                parent = slots[parents[node]]
                for c in range(choices if parent >= 0 else 0):
                    if said[c] == last[node]:
                        # Its parent, extended, is the same prefix.
                        repeats = last[beam[parent]] == said[c]
                        source = mass[0 if repeats else 2, parent]
                        nonblank = _log_add(nonblank, source + extensions[c])
                        merged[c, parent] = True
            stays[1, w] = nonblank
            stays[2, w] = _log_add(stays[0, w], nonblank)
            if stays[2, w] > -np.inf:
                count = _insert(best, indices, count, stays[2, w], w)
        for c in range(choices):
            for w in range(width):
                repeats = last[beam[w]] == said[c]
                score = mass[0 if repeats else 2, w] + extensions[c]
                if score > -np.inf and not merged[c, w]:
                    index = (c + 1) * beam_size + w
                    count = _insert(best, indices, count, score, index)
        for w in range(count):
            choice, source = divmod(indices[w], beam_size)
            if choice == 0:
                beam_next[w] = beam[source]
                mass_next[:, w] = stays[:, source]
                continue
            token = said[choice - 1]
            node = _child(beam[source], token, nodes, parents, last, child, sibling)
            nodes = max(nodes, node + 1)
            beam_next[w] = node
            mass_next[0, w] = -np.inf
            mass_next[1, w] = mass_next[2, w] = best[w]
        slots[beam[:width]] = -1
        slots[beam_next[:count]] = np.arange(count)
        beam, beam_next, mass, mass_next = beam_next, beam, mass_next, mass
        width = count
    for n in range(min(width, scores.size)):
        scores[n] = mass[2, n]
        node = beam[n]
        while parents[node] >= 0:
            lengths[n] += 1
            node = parents[node]
        node = beam[n]
        for place in range(lengths[n] - 1, -1, -1):
            tokens[n, place] = last[node]
            node = parents[node]
    return True


@compiled
def search(log_probs, lengths, beam_size, choices, tokens, token_lengths, scores):
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
        if not _search(frames, beam_size, choices, *found):
            scores[b] = np.nan
