"""The best alignment of a transcript, compiled for the CPU.

The states of `espnet_softpl.ctc.viterbi`, one utterance after the other, in float64.
"""

# ruff: noqa: ANN001, ANN202

import numpy as np

from espnet_softpl.ctc.kernels import compiled


@compiled
def _best_path(frames, states, may_skip, moves, scores, path):
    """Fill the path (T,) over frames (T, V); return its log-probability, or -inf.

    `states` (S,) are tokens, `may_skip` (S,) marks those that may be reached from two
    before. `moves` (T, S) and `scores` (S,) are room to work in: scores are replaced
    from the last state to the first, which reads only what is still of the frame
    before. Of equal moves the shortest is taken.
    """
    scores[:] = -np.inf
    scores[0] = 0.0  # Before the first frame, in the first blank.
    for t in range(len(frames)):
        for s in range(states.size - 1, -1, -1):
            best, move = scores[s], 0
            if s > 0 and scores[s - 1] > best:
                best, move = scores[s - 1], 1
            if may_skip[s] and scores[s - 2] > best:
                best, move = scores[s - 2], 2
            scores[s] = best + frames[t, states[s]]
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
    log_probs, lengths, states, may_skip, token_lengths, moves, paths, scores
) -> None:
    """Find the best alignment of each utterance's transcript.

    Args:
        log_probs: Frames, (B, T, V).
        lengths: Frames of each utterance, int64, (B,).
        states: Tokens of the states, int64, (B, 2 U + 1).
        may_skip: Whether a state may be reached from two before, bool, (B, 2 U + 1).
        token_lengths: Labels of each transcript, int64, (B,).
        moves: Room to work in, int8, (T, 2 U + 1).
        paths: To be filled, int64, (B, T), with -1 in it.
        scores: To be filled, (B,).

    Raises:
        ValueError: A length or a token is out of its range.
    """
    room = np.empty(states.shape[1])
    for b in range(lengths.size):
        size = 2 * token_lengths[b] + 1
        if not (0 <= lengths[b] <= log_probs.shape[1] and 1 <= size <= room.size):
            raise ValueError("lengths must fit the frames and the transcripts")
        for token in states[b, :size]:
            if not 0 <= token < log_probs.shape[2]:
                raise ValueError("a token is not in [0, V)")
        scores[b] = _best_path(
            log_probs[b, : lengths[b]],
            states[b, :size],
            may_skip[b],
            moves,
            room[:size],
            paths[b],
        )
