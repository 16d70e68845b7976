"""A mini-batch without transcripts, on its way from the loader to the engine.

B utterances, N samples.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class UnlabeledBatch(NamedTuple):
    """A mini-batch without transcripts.

    It is a NamedTuple, so that ESPnet's `to_device` and torch's `scatter` move the
    tensors in it and keep the rest.

    Attributes:
        utt_id: B utterance ids.
        speech: Waveforms, (B, N).
        speech_lengths: Samples per utterance, (B,).
        weight: The schedule's factor on the unlabeled loss (lambda), at least 0.
        usable: False if the audio could not be read and is silence instead, (B,);
            None if all of it could.
        slot: The slot of the label cache that the mini-batch belongs to, if any.
        draw: Unlabeled turns of the schedule before this one.
    """

    utt_id: list[str]
    speech: torch.Tensor
    speech_lengths: torch.Tensor
    weight: float = 1.0
    usable: torch.Tensor | None = None
    slot: int | None = None
    draw: int = 0
