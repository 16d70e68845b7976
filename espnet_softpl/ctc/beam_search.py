"""CTC prefix beam search: the best transcripts of a teacher, with their mass.

N hypotheses, W prefixes in the beam, C tokens that may extend a prefix. `beam_kernel`
does it, on the CPU. Of a GPU's frames those tokens are copied there that are among the
C best of any frame of the utterance: the search looks at no others.

The search is that of Hannun et al. 2014, https://arxiv.org/abs/1408.2873, without a
language model. A prefix carries the log-mass of its alignments that end in blank and of
those that end in its last token, so alignments of one transcript are summed, not
compared.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from espnet_softpl.core.ranges import at_least
from espnet_softpl.ctc import PADDING, frequent_tokens, in_float32, kernels


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
    token_beam = min(token_beam, num_tokens - 1)
    tokens = torch.full((num_utterances, nbest, num_frames), PADDING)
    token_lengths = torch.zeros(num_utterances, nbest, dtype=torch.int64)
    scores = torch.full(token_lengths.shape, -torch.inf, dtype=log_probs.dtype)
    few, numbers = log_probs, None
    if not kernels.on_cpu(log_probs) and num_utterances and token_beam:
        numbers, few = frequent_tokens(log_probs, lengths, token_beam)
    given = kernels.arrays(few, lengths)
    results = kernels.arrays(tokens, token_lengths, scores)
    kernels.for_utterances(
        lambda part: search(
            *(array[part] for array in given),
            beam_size,
            token_beam,
            *(array[part] for array in results),
        ),
        num_utterances,
    )
    width = int(token_lengths.max()) if num_utterances else 0
    tokens = tokens[..., :width].contiguous()
    if numbers is not None:  # Back from places among the few.
        places = tokens.flatten(1).clamp(min=0)
        names = numbers.cpu().gather(1, places).view(tokens.shape)
        tokens = torch.where(tokens == PADDING, PADDING, names)
    found = tokens, token_lengths, scores
    return NBest(*(part.to(log_probs.device) for part in found))
