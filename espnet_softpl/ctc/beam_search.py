"""CTC prefix beam search: the best transcripts of a teacher, with their mass.

N hypotheses, W prefixes in the beam, C tokens that may extend a prefix. `beam_kernel`
does it, on the CPU: frames of a GPU are copied there.

The search is that of Hannun et al. 2014, https://arxiv.org/abs/1408.2873, without a
language model. A prefix carries the log-mass of its alignments that end in blank and of
those that end in its last token, so alignments of one transcript are summed, not
compared.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from espnet_softpl.core.ranges import at_least
from espnet_softpl.ctc import PADDING, in_float32, kernels


class NBest(NamedTuple):
    """The best transcripts of a batch, best first.

    A score is log P(transcript | log_probs) in nats as far as the beam saw its
    alignments; -inf, of an empty transcript, if the search found fewer than N.
    """

    tokens: Tensor  # (B, N, U), padded with -1
    token_lengths: Tensor  # (B, N)
    scores: Tensor  # (B, N)


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
    padding frames, on its place in the batch or on the other utterances, bit for bit.
    NaN in a frame makes all scores NaN.

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
        ValueError: A size or a length is out of its range.
    """
    from espnet_softpl.ctc.beam_kernel import search

    token_beam = beam_size if token_beam is None else token_beam
    at_least("nbest", nbest, 1)
    at_least("beam_size", beam_size, nbest)
    at_least("token_beam", token_beam, 1)
    log_probs = in_float32(log_probs)
    num_utterances, num_frames, num_tokens = log_probs.shape
    tokens = torch.full((num_utterances, nbest, num_frames), PADDING)
    token_lengths = torch.zeros(num_utterances, nbest, dtype=torch.int64)
    scores = torch.full(token_lengths.shape, -torch.inf, dtype=log_probs.dtype)
    search(
        *kernels.arrays(log_probs, lengths),
        beam_size,
        min(token_beam, num_tokens - 1),
        *kernels.arrays(tokens, token_lengths, scores),
    )
    width = int(token_lengths.max()) if num_utterances else 0
    found = tokens[..., :width].contiguous(), token_lengths, scores
    return NBest(*(part.to(log_probs.device) for part in found))
