"""A mini-batch without transcripts, on its way from the loader to the engine."""

from __future__ import annotations

from typing import NamedTuple

import torch


class UnlabeledBatch(NamedTuple):
    """A mini-batch of B utterances of at most N samples without transcripts.

    ESPnet's `to_device` and torch's `scatter` move the tensors of a NamedTuple.
    """

    utt_id: list[str]
    speech: torch.Tensor  # Clean waveforms, (B, N): what the teacher hears.
    speech_lengths: torch.Tensor  # Samples per utterance, (B,).
    weight: float = 1.0  # The schedule's factor on the unlabeled loss (lambda), >= 0.
    usable: torch.Tensor | None = None  # (B,), False if silence replaces bad audio.
    slot: int | None = None  # The slot of the label cache that it belongs to, if any.
    draw: int = 0  # Unlabeled turns of the schedule before this one.
    # What the student hears, (B, N), if the loader augments; None for `speech`.
    augmented: torch.Tensor | None = None
