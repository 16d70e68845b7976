"""Pseudo-labels: what a teacher outputs for a batch of unlabeled utterances."""

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from espnet_softpl.ctc import PADDING, collapse, frame_mask


class PseudoLabel(NamedTuple):
    """The label of a batch of unlabeled utterances.

    `frame_weight` multiplies the student's log-posteriors: a frame of weight 0 costs
    nothing and, in a sum over alignments, may be any token.
    """

    log_probs: Tensor  # The teacher's frame log-posteriors, (B, T, V), no gradient.
    lengths: Tensor  # Frames per utterance, (B,).
    tokens: Tensor  # The teacher's transcript, (B, U), padded with -1.
    token_lengths: Tensor  # Tokens per utterance, (B,).
    weight: Tensor  # Trust in each utterance, (B,), >= 0; 0 leaves it out exactly.
    frame_weight: Tensor | None = None  # Trust in each frame, (B, T), in [0, 1].
    prior: Tensor | None = None  # The mean posterior on labeled data, (V,), if known.
    # The student's log-posteriors of a second augmentation of the same audio,
    # (B, T, V), with gradient; only for criteria with two `views`.
    second_view: Tensor | None = None
    # Frames that are masked in the student's audio, (B, T), bool, in its one view or
    # first and in its second one; only for criteria that ask for them.
    masked: Tensor | None = None
    second_masked: Tensor | None = None
    # The teacher's N best transcripts, best first, if a shaping has listed them:
    list_tokens: Tensor | None = None  # (B, N, U), padded with -1,
    list_lengths: Tensor | None = None  # (B, N),
    # and log weights up to a constant, (B, N), in nats; -inf is no transcript.
    list_scores: Tensor | None = None
    # Whether lists and samples of transcripts leave out the empty one, as a filter has
    # left out the label's own.
    excludes_empty: bool = False

    def with_list(
        self, tokens: Tensor, lengths: Tensor, scores: Tensor
    ) -> "PseudoLabel":
        """Return the label with a list of transcripts; the first becomes its own.

        For `tokens` (B, N, U), `lengths` and `scores` (B, N) see the fields.
        """
        width = int(lengths[:, 0].max()) if len(lengths) else 0
        return self._replace(
            tokens=tokens[:, 0, :width],
            token_lengths=lengths[:, 0],
            list_tokens=tokens,
            list_lengths=lengths,
            list_scores=scores,
        )


class DecoderLabel(NamedTuple):
    """What the teacher's decoder answers, fed with the transcript of its CTC head.

    It has P = U + 1 positions: the transcript's tokens and the end.
    """

    tokens: Tensor  # Its best token at each position, (B, P), padded with -1.
    lengths: Tensor  # Positions per utterance, (B,).
    # Its log-posteriors, (B, P, V), without gradient; None if the target is the tokens.
    log_probs: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Labels:
    """The labels of a mini-batch, ready for the criterion."""

    utterance_ids: list[str]
    label: PseudoLabel  # After shaping and filters.
    path: Tensor  # Best token of every frame, before shaping, (B, T), -1 in padding.
    # Which filter dropped each utterance, (B,): its index; -1 for those that are kept,
    # and the number of filters for those that another part dropped.
    reason: Tensor
    statistics: Mapping[str, Tensor | float]  # `label_statistics` of them as made.
    step: int  # The mini-batch of training at which they were made.
    uses: int = 0  # Training steps on these labels so far, if they are in a cache.
    decoder: DecoderLabel | None = None  # None if the teacher's decoder is not asked.
    # Labels of the teacher's intermediate layers, in order, each with a factor on the
    # trust in the label; empty if they are not asked for.
    layers: tuple[PseudoLabel, ...] = ()

    def transcripts(self) -> tuple[Tensor, Tensor]:
        """Return the teacher's greedy transcripts, (B, U), and their lengths, (B,)."""
        return collapse(self.path, self.label.lengths)


def best_path(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """Return the best token of every frame, (B, T), -1 in the padding."""
    path = log_probs.argmax(-1)
    return path.masked_fill(~frame_mask(lengths, path.size(1)), PADDING)


def all_frames(flags: Tensor, lengths: Tensor) -> Tensor:
    """Tell of which utterances all frames are flagged, (B, T) -> (B,)."""
    return (flags | ~frame_mask(lengths, flags.size(1))).all(1)


def without_nan(log_probs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Make frames of (B, T, V) uniform that are NaN, or give no token a chance.

    Returns log_probs, and (B,), False for the utterances that have such frames.
    """
    sound = log_probs.amax(-1).isfinite()
    uniform = -math.log(log_probs.size(-1))
    cleaned = torch.where(sound.unsqueeze(-1), log_probs, uniform)
    return cleaned, all_frames(sound, lengths)
