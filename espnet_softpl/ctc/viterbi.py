"""The best CTC alignment of a transcript: batched Viterbi, one loop over frames.

On the CPU `viterbi_kernel` runs it; the loop in torch is for GPUs and for the tests.
S = 2U + 1 states: blank, label, blank, label, ..., blank.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from espnet_softpl.ctc import BLANK, PADDING, frame_mask, in_float32, kernels

# Finite, so that differences stay numbers; below any sum of real log-probabilities.
NEVER = -1e30


@torch.no_grad()
def viterbi(
    log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Find the most probable alignment of each transcript.

    Args:
        log_probs: Frame log-posteriors, (B, T, V).
        lengths: Frames per utterance, (B,).
        tokens: Transcripts, (B, U), padded with any value.
        token_lengths: Tokens per utterance, (B,).

    Returns:
        path (B, T), one token per frame, -1 in the padding and all over where the
        transcript has no alignment; and its log-probability (B,), -inf there.
    """
    log_probs = in_float32(log_probs)
    states, may_skip = _states(tokens, token_lengths)
    if kernels.usable(log_probs):
        return _compiled(log_probs, lengths, states, may_skip, token_lengths)
    index = states.unsqueeze(1).expand(-1, log_probs.size(1), -1)
    emissions = log_probs.gather(2, index).clamp_(min=NEVER).transpose(0, 1)
    moves, best = _forward(emissions.contiguous(), lengths, may_skip)
    # The path ends in the last blank or in the last label.
    last = 2 * token_lengths
    ends = torch.stack([last, (last - 1).clamp(min=0)], 1)
    score, which = best.gather(1, ends).max(1)
    state = ends.gather(1, which.unsqueeze(1)).squeeze(1)
    path = _trace_back(moves, state, states, lengths)
    feasible = score > NEVER / 2
    path = path.masked_fill(~feasible.unsqueeze(1), PADDING)
    return path, score.masked_fill(~feasible, -torch.inf)


def _compiled(
    log_probs: Tensor,
    lengths: Tensor,
    states: Tensor,
    may_skip: Tensor,
    token_lengths: Tensor,
) -> tuple[Tensor, Tensor]:
    """Align by the kernel: frames (B, T, V), and what `_states` makes of the rest."""
    from espnet_softpl.ctc.viterbi_kernel import best_paths

    num_frames = log_probs.size(1)
    moves = states.new_empty(num_frames, states.size(1), dtype=torch.int8)
    paths = states.new_full((len(states), num_frames), PADDING)
    scores = log_probs.new_empty(len(states))
    given = log_probs, lengths, states, may_skip, token_lengths
    found = moves, paths, scores
    best_paths(*(part.contiguous().numpy() for part in (*given, *found)))
    return paths, scores


def _states(tokens: Tensor, token_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Lay out states (B, S), and mark those that may be reached from two before."""
    exists = frame_mask(token_lengths, tokens.size(1))
    labels = torch.where(exists, tokens, BLANK)
    states = labels.new_full((labels.size(0), 2 * labels.size(1) + 1), BLANK)
    states[:, 1::2] = labels
    may_skip = torch.zeros_like(states, dtype=torch.bool)
    may_skip[:, 3::2] = exists[:, 1:] & (labels[:, 1:] != labels[:, :-1])
    return states, may_skip


def _forward(
    emissions: Tensor, lengths: Tensor, may_skip: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the recursion over (T, B, S) emissions.

    Returns moves (T, B, S) in int8, states advanced on entering each frame, 0, 1 or 2;
    and the scores (B, S) at each utterance's last frame.
    """
    moves = emissions.new_zeros(emissions.shape, dtype=torch.int8)
    scores = emissions[0].clone()
    scores[:, 2:] = NEVER
    no_skip = ~may_skip
    final = scores
    for t in range(1, emissions.size(0)):
        one = F.pad(scores[:, :-1], (1, 0), value=NEVER)
        two = F.pad(one[:, :-1], (1, 0), value=NEVER).masked_fill_(no_skip, NEVER)
        scores, moves[t] = torch.stack([scores, one, two]).max(0)
        scores = scores + emissions[t]
        final = torch.where((t < lengths).unsqueeze(1), scores, final)
    return moves, final


def _trace_back(
    moves: Tensor, state: Tensor, states: Tensor, lengths: Tensor
) -> Tensor:
    """Follow the moves (T, B, S) back from the last state (B,) to a path (B, T)."""
    visited = []
    for t in reversed(range(len(moves))):
        visited.append(state)
        back = moves[t].gather(1, state.unsqueeze(1)).squeeze(1).long()
        state = torch.where(t < lengths, state - back, state)
    path = states.gather(1, torch.stack(visited[::-1], 1))
    return path.masked_fill(~frame_mask(lengths, len(moves)), PADDING)
