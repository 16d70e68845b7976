"""Pseudo-labels: what a teacher outputs for a batch of unlabeled utterances."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from espnet_softpl.ctc import PADDING, collapse, frame_mask


class PseudoLabel(NamedTuple):
    """The label of a batch of unlabeled utterances.

    Attributes:
        log_probs: The teacher's frame log-posteriors, (B, T, V), without gradient.
        lengths: Frames per utterance, (B,).
        tokens: The teacher's transcript, (B, U), padded with -1.
        token_lengths: Tokens per utterance, (B,).
        weight: Trust in each utterance, (B,), at least 0; 0 leaves it out exactly.
        frame_weight: Trust in each frame, (B, T), in [0, 1], or None for full trust.
            It multiplies the student's log-posteriors: a frame of weight 0 costs
            nothing and, in a sum over alignments, may be any token.
        prior: The mean frame posterior on labeled data, (V,), or None if unknown.
        second_view: The student's log-posteriors of a second augmentation of the
            same audio, (B, T, V), with gradient; only for criteria with two `views`.
    """

    log_probs: Tensor
    lengths: Tensor
    tokens: Tensor
    token_lengths: Tensor
    weight: Tensor
    frame_weight: Tensor | None = None
    prior: Tensor | None = None
    second_view: Tensor | None = None


class DecoderLabel(NamedTuple):
    """What the teacher's decoder answers, fed with the transcript of its CTC head.

    Attributes:
        tokens: Its best token at each position, (B, P), padded with -1.
        lengths: Positions per utterance, (B,): the transcript's tokens and the end.
        log_probs: Its log-posteriors, (B, P, V), without gradient; None if only
            the best tokens are the target.
    """

    tokens: Tensor
    lengths: Tensor
    log_probs: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class Labels:
    """The labels of a mini-batch, ready for the criterion.

    Attributes:
        utterance_ids: B ids.
        label: The label after shaping and filters.
        path: The teacher's best token of every frame, before shaping, (B, T), -1 in
            the padding.
        reason: Which filter dropped each utterance, (B,): its index; -1 for those
            that are kept, and the number of filters for those that another part
            dropped.
        statistics: What `statistics.label_statistics` computes of the labels as made.
        step: The mini-batch of training at which they were made.
        uses: Training steps on these labels so far, if they are in a cache.
        decoder: What the teacher's decoder answers to the label's transcript; None
            if it is not asked.
        layers: Labels of the teacher's intermediate layers, in order, each with a
            factor on the trust in the label; empty if they are not asked for.
    """

    utterance_ids: list[str]
    label: PseudoLabel
    path: Tensor
    reason: Tensor
    statistics: Mapping[str, Tensor | float]
    step: int
    uses: int = 0
    decoder: DecoderLabel | None = None
    layers: tuple[PseudoLabel, ...] = ()

    def transcripts(self) -> tuple[Tensor, Tensor]:
        """Return the teacher's greedy transcripts, (B, U), and their lengths, (B,)."""
        return collapse(self.path, self.label.lengths)


def best_path(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """Return the best token of every frame, (B, T), -1 in the padding."""
    path = log_probs.argmax(-1)
    return path.masked_fill(~frame_mask(lengths, path.size(1)), PADDING)


def without_nan(log_probs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Make frames uniform that are NaN, or that give no token a chance.

    Args:
        log_probs: (B, T, V).
        lengths: (B,).

    Returns:
        log_probs, and (B,), False for the utterances that have such frames.
    """
    sound = log_probs.amax(-1).isfinite()
    flat = log_probs.new_tensor(-math.log(log_probs.size(-1)))
    mask = frame_mask(lengths, log_probs.size(1))
    cleaned = torch.where(sound.unsqueeze(-1), log_probs, flat)
    return cleaned, (sound | ~mask).all(1)
