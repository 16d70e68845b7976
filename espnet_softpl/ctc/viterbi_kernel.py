"""The best alignment of a transcript, compiled, in float64.

S = 2U + 1 states of a transcript: blank, label, blank, label, ..., blank.
"""

# ruff: noqa: ANN001, ANN202

import numpy as np

from espnet_softpl.ctc.kernels import compiled


@compiled
def _best_path(frames, states, moves, scores, path):
    """Fill the path (T,) over frames (T, 1 + U); return its log-probability, or -inf.

    `states` (S,) are tokens. `moves` (T, S) and `scores` (S,) are room to work in:
    scores are replaced from the last state to the first, which reads only what is still
    of the frame before. Of equal moves the shortest is taken.
    """
    scores[:] = -np.inf
    scores[0] = 0.0  # Before the first frame, in the first blank.
    for t in range(len(frames)):
        for s in range(states.size - 1, -1, -1):
            best, move = scores[s], 0
            if s > 0 and scores[s - 1] > best:
                best, move = scores[s - 1], 1
            # The blank between two labels may be passed over if they differ.
            if s > 1 and states[s] != states[s - 2] and scores[s - 2] > best:
                best, move = scores[s - 2], 2
            # Column 0 is blank's, u + 1 that of label u, which is state 2 u + 1.
            scores[s] = best + frames[t, (s + 1) // 2 if s % 2 else 0]
            moves[t, s] = move
    state = states.size - 1
    if state > 0 and scores[state - 1] > scores[state]:
        state -= 1
    score = scores[state]
    if not score > -np.inf:  # NaN is no alignment either.
        return -np.inf
    for t in range(len(frames) - 1, -1, -1):
        path[t] = states[state]
        state -= moves[t, state]
    return score


@compiled
def best_paths(
    num_tokens, frames, lengths, tokens, token_lengths, paths, scores
) -> None:
    """Find the best alignment of each utterance's transcript.

    Args:
        num_tokens: V.
        frames: Log-probabilities of blank and of each label, (B, T, 1 + U).
        lengths: Frames of each utterance, int64, (B,).
        tokens: Transcripts, int64, (B, U), padded with any value.
        token_lengths: Labels of each transcript, int64, (B,).
        paths: To be filled, int64, (B, T), with -1 in it.
        scores: To be filled, (B,).

    Raises:
        ValueError: A length or a token is out of its range.
    """
    num_frames = frames.shape[1]
    states = np.zeros(2 * tokens.shape[1] + 1, np.int64)
    moves, room = np.empty((num_frames, states.size), np.int8), np.empty(states.size)
    for b in range(lengths.size):
        size = 2 * token_lengths[b] + 1
        if not (0 <= lengths[b] <= num_frames and 1 <= size <= states.size):
            raise ValueError("lengths must fit the frames and the transcripts")
        for u in range(token_lengths[b]):
            if not 0 <= tokens[b, u] < num_tokens:
                raise ValueError("a token is not in [0, V)")
            states[2 * u + 1] = tokens[b, u]
        given = frames[b, : lengths[b]], states[:size], moves
        scores[b] = _best_path(*given, room[:size], paths[b])
