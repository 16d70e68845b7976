"""Batched CTC prefix beam search: the best transcripts of a teacher, with their mass.

N hypotheses, W prefixes in the beam, C tokens that may extend a prefix. On the CPU
`beam_kernel` searches. The torch code here is for GPUs, and what the tests compare the
kernel with: one loop over frames and one back, for the whole batch.

The search is that of Hannun et al. 2014, https://arxiv.org/abs/1408.2873, without a
language model. A prefix carries the log-mass of its alignments that end in blank and of
those that end in its last token, so alignments of one transcript are summed, not
compared. Here prefixes are told apart by a 64-bit hash: equal ones are merged exactly,
and two unequal ones of a beam are confused with a chance of about 2**-60.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from espnet_softpl.core.ranges import at_least
from espnet_softpl.ctc import (
    BLANK,
    PADDING,
    collapse,
    frame_mask,
    in_float32,
    kernels,
)

NO_MASS = -float("inf")

# Odd 64-bit constants of multiplicative hashing, written as signed numbers.
TOKEN_FACTOR = -7046029254386353131
PREFIX_FACTOR = -4417276706812531889
EMPTY_PREFIX = 1442695040888963407
NO_PREFIX = 0


class NBest(NamedTuple):
    """The best transcripts of a batch, best first.

    A score is log P(transcript | log_probs) in nats as far as the beam saw its
    alignments; -inf, of an empty transcript, if the search found fewer than N.
    """

    tokens: Tensor  # (B, N, U), padded with -1
    token_lengths: Tensor  # (B, N)
    scores: Tensor  # (B, N)


class _Beam(NamedTuple):
    """Prefixes, best first; a slot without mass has keys of zero."""

    scores: Tensor  # Log-mass of the prefix, (B, W).
    blank: Tensor  # Its part that ends in blank, (B, W).
    nonblank: Tensor  # Its part that ends in the last token, (B, W).
    keys: Tensor  # Hash, hash without the last token, last token or blank, (3, B, W).


@torch.no_grad()
def prefix_beam_search(
    log_probs: Tensor,
    lengths: Tensor,
    nbest: int,
    beam_size: int,
    token_beam: int | None = None,
) -> NBest:
    """Find the most probable transcripts under the CTC sum over alignments.

    The scores are exact when the beam holds every prefix and every token may extend
    one; otherwise each is a lower bound. An utterance's result does not depend on its
    padding frames, on its place in the batch or on the other utterances, bit for bit;
    on a GPU, equal scores may be ordered differently in another batch. On
    the CPU, NaN in a frame makes all scores NaN.

    Args:
        log_probs: Frame log-posteriors, (B, T, V), in nats.
        lengths: Frames per utterance, (B,), 0 to T.
        nbest: N, at least 1.
        beam_size: W, the prefixes kept after every frame, at least `nbest`.
        token_beam: C, at least 1: so many of the frame's best tokens may extend a
            prefix; None takes `beam_size`. To hold the last token for another frame
            and blank are always allowed.

    Returns:
        The N best transcripts of each utterance, without gradient.

    Raises:
        ValueError: A size is out of its range.
    """
    token_beam = beam_size if token_beam is None else token_beam
    at_least("nbest", nbest, 1)
    at_least("beam_size", beam_size, nbest)
    at_least("token_beam", token_beam, 1)
    log_probs = in_float32(log_probs)
    token_beam = min(token_beam, log_probs.size(2) - 1)
    if kernels.usable(log_probs):
        return _compiled(log_probs, lengths, nbest, beam_size, token_beam)
    frames = log_probs.transpose(0, 1)
    choices, extensions = _candidates(frames, token_beam)

    beam = _empty_prefix(log_probs, beam_size)
    stay = torch.arange(beam_size, device=log_probs.device).expand_as(beam.scores)
    scores, parents, tokens = [beam.scores], [stay], [torch.zeros_like(stay)]
    for frame, choice, extension in zip(frames, choices, extensions):
        candidates, masses = _spread(beam, frame, choice[0], extension)
        beam, parent, token = _select(beam, candidates, masses, choice)
        scores.append(beam.scores)
        parents.append(parent)
        tokens.append(token)

    # Frames behind the end were searched like others; here they are forgotten.
    behind = ~frame_mask(lengths + 1, len(scores)).t().unsqueeze(-1)
    links = torch.where(behind, stay, torch.stack(parents))
    best = stay[:, :nbest]
    paths = _trace_back(links, torch.stack(tokens), best)
    end = lengths.view(1, -1, 1).expand(1, *best.shape)
    best_scores = torch.stack(scores).gather(0, end).squeeze(0)
    paths = paths.masked_fill((best_scores == NO_MASS).unsqueeze(-1), BLANK)
    # To collapse merges no true double: a token is only added anew after a blank.
    return NBest(*collapse(paths, lengths + 1), best_scores)


def _compiled(
    log_probs: Tensor, lengths: Tensor, nbest: int, beam_size: int, token_beam: int
) -> NBest:
    """Search frames (B, T, V) of `lengths` (B,) by the kernel."""
    from espnet_softpl.ctc.beam_kernel import search

    shape = (len(log_probs), nbest)
    tokens = lengths.new_full((*shape, log_probs.size(1)), PADDING)
    token_lengths = lengths.new_zeros(shape)
    scores = log_probs.new_full(shape, NO_MASS)
    given = log_probs.contiguous().numpy(), lengths.contiguous().numpy()
    found = tokens.numpy(), token_lengths.numpy(), scores.numpy()
    search(*given, beam_size, token_beam, *found)
    width = int(token_lengths.max()) if len(log_probs) else 0
    return NBest(tokens[..., :width].contiguous(), token_lengths, scores)


def _candidates(frames: Tensor, token_beam: int) -> tuple[Tensor, Tensor]:
    """List what may happen at each frame: choice 0 is to stay, others add a token.

    Returns the tokens, blank first, over their hashes, (T, 2, B, C + 1); and the
    tokens' log-posteriors, (T, B, C + 1), -inf for blank, which extends nothing.
    """
    num_tokens = frames.size(2) - 1
    if token_beam == num_tokens:
        tokens = torch.arange(num_tokens + 1, device=frames.device)
        tokens = tokens.expand(*frames.shape[:2], -1)
    else:
        tokens = frames[..., 1:].topk(token_beam).indices + 1
        tokens = torch.nn.functional.pad(tokens, (1, 0), value=BLANK)  # (T, B, C + 1)
    extensions = frames.gather(2, tokens)
    extensions[..., 0] = NO_MASS
    hashes = tokens * TOKEN_FACTOR
    hashes = (hashes ^ (hashes >> 32)) * TOKEN_FACTOR
    return torch.stack((tokens, hashes), dim=1), extensions


def _empty_prefix(log_probs: Tensor, beam_size: int) -> _Beam:
    """Start every utterance from the empty prefix, certain."""
    scores = log_probs.new_full((log_probs.size(0), beam_size), NO_MASS)
    nonblank = scores.clone()
    scores[:, 0] = 0.0
    keys = torch.full((3, *scores.shape), NO_PREFIX, device=log_probs.device)
    keys[0, :, 0] = EMPTY_PREFIX
    return _Beam(scores, scores, nonblank, keys)


def _log_add(pair: Tensor) -> Tensor:
    """Add the two masses of (..., 2).

    The masses must lie side by side as they do here: on the CPU, logaddexp of dense
    tensors rounds its vector lanes and its remainder differently, and a result would
    depend on its place in the batch. Strided ones all take the same code.
    """
    return torch.logaddexp(pair[..., 0], pair[..., 1])


def _spread(
    beam: _Beam, frame: Tensor, tokens: Tensor, extensions: Tensor
) -> tuple[Tensor, Tensor]:
    """Carry the mass of a beam over one frame, (B, V), with `tokens` as choices.

    Returns candidates (B, C + 1, W), the log-mass of every prefix as it is (row 0) and
    extended by each token, with all of the mass of a prefix that is in the beam in row
    0; and masses (B, W, 2), the parts of row 0 that end in blank and not.

    Example: the beam is "", "a", "ab" (slots 0, 1, 2; W = 3), the choices are blank, a,
    b (rows 0, 1, 2). Of the candidates, numbered 3 * row + slot,

        row 0   "" stays    "a" stays     "ab" stays
        row 1   "" + a: 3   "a" + a: 4    "ab" + a: 5
        row 2   "" + b: 6   "a" + b: 7    "ab" + b: 8

    3 spells what slot 1 holds, and 7 what slot 2 holds. So `twins` is (0, 3, 7): the
    mass of 3 and of 7 is added to row 0 and removed where it was. "a" + a needs a blank
    between, so that it takes the mass of "a" that ends in blank only.
    """
    hashes, parents, last = beam.keys
    repeats = tokens.unsqueeze(2) == last.unsqueeze(1)  # (B, C + 1, W)
    sources = torch.where(repeats, beam.blank.unsqueeze(1), beam.scores.unsqueeze(1))
    candidates = sources.add_(extensions.unsqueeze(2))  # (B, C + 1, W)

    # A prefix without its parent in the beam has twin 0: row 0 has no mass as yet.
    is_parent = hashes.unsqueeze(1) == parents.unsqueeze(2)  # (B, W, W)
    has_parent, parent = is_parent.max(2)
    choice = repeats.max(1).indices  # The row of each prefix's last token, (B, W).
    twins = torch.add(parent, choice, alpha=last.size(1)).mul_(has_parent)
    flat = candidates.view(candidates.size(0), -1)
    held = beam.nonblank + frame.gather(1, last)  # The last token for another frame.
    nonblank = _log_add(torch.stack((held, flat.gather(1, twins)), dim=-1))
    masses = torch.stack((beam.scores + frame[:, :1], nonblank), dim=-1)
    flat.scatter_(1, twins, NO_MASS)
    candidates[:, 0] = _log_add(masses)
    return candidates, masses


def _extend_hash(prefixes: Tensor, tokens: Tensor) -> Tensor:
    """Hash prefixes with one more token, from both hashes, modulo 2**64."""
    return (prefixes ^ tokens).mul_(PREFIX_FACTOR)


def _select(
    beam: _Beam, candidates: Tensor, masses: Tensor, choices: Tensor
) -> tuple[_Beam, Tensor, Tensor]:
    """Keep the best candidates of a frame, which `_spread` made from `choices`.

    Returns the prefixes after the frame; for each of them the slot that it comes from,
    (B, W), and the token that it got, (B, W), blank for none.
    """
    beam_size = candidates.size(2)
    scores, index = candidates.flatten(1).topk(beam_size)
    choice = index // beam_size
    parents = index % beam_size
    tokens, token_hashes = choices.gather(2, choice.expand(2, -1, -1))
    grows = choice > 0

    parts = masses.gather(1, parents.unsqueeze(2).expand(-1, -1, 2))
    blank = parts[..., 0].masked_fill(grows, NO_MASS)
    nonblank = torch.where(grows, scores, parts[..., 1])

    keys = beam.keys.gather(2, parents.expand(3, -1, -1))
    hashes = _extend_hash(keys[0], token_hashes)
    keys = torch.where(grows, torch.stack((hashes, keys[0], tokens)), keys)
    # A candidate without mass may be a copy of a prefix that has it all.
    keys.masked_fill_(scores == NO_MASS, NO_PREFIX)
    return _Beam(scores, blank, nonblank, keys), parents, tokens


def _trace_back(parents: Tensor, tokens: Tensor, slots: Tensor) -> Tensor:
    """Follow prefixes from `slots` (B, N) of the last step to the first.

    From the slot one step earlier and the token got at each step, both (S, B, W), to
    an alignment of each prefix, (B, N, S).
    """
    path = []
    for parent, token in zip(parents.flip(0), tokens.flip(0)):
        path.append(token.gather(1, slots))
        slots = parent.gather(1, slots)
    return torch.stack(path, dim=-1).flip(-1)
