"""From waveforms to pseudo-labels: the teacher's view of an unlabeled mini-batch.

B utterances, N samples, T frames after subsampling, V tokens with blank, U labels.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import torch

from espnet_softpl.core.modules import dropouts, evaluating
from espnet_softpl.ctc import PADDING, collapse, frame_mask
from espnet_softpl.labels.pseudo_label import DecoderLabel, PseudoLabel, best_path
from espnet_softpl.teacher import Teacher


class CTCOutputs(NamedTuple):
    """What a model's encoder and CTC head make of a batch."""

    log_probs: torch.Tensor  # Frame log-posteriors of the last layer, float32 (B, T, V)
    lengths: torch.Tensor  # Frames per utterance (B,)
    encoder_out: torch.Tensor  # What a decoder attends to (B, T, D)
    layers: tuple[torch.Tensor, ...] = ()  # Of intermediate ones, if asked (B, T, V)

    def views(self, count: int) -> list[CTCOutputs]:
        """Split the outputs of `count` views that were run as one batch."""
        layers = [layer.chunk(count) for layer in self.layers]
        parts = zip(*(part.chunk(count) for part in self[:3]))
        return [
            CTCOutputs(*part, tuple(layer[i] for layer in layers))
            for i, part in enumerate(parts)
        ]


class TeacherOutputs(NamedTuple):
    """What a teacher makes of a batch.

    The weight of an intermediate layer's label is 0 if its transcript is empty and the
    last layer's is not: the layer would learn to output nothing for speech.
    """

    label: PseudoLabel  # That of its CTC head; the weight is 1.
    path: torch.Tensor  # Its best token of every frame (B, T), -1 in padding.
    encoder_out: torch.Tensor  # What its decoder attends to (B, T, D)
    layers: tuple[PseudoLabel, ...] = ()  # Of intermediate layers, in order.


def as_label(
    log_probs: torch.Tensor, lengths: torch.Tensor, path: torch.Tensor | None = None
) -> PseudoLabel:
    """Label by the best token of every frame of (B, T, V), with a weight of 1.

    `path` (B, T) has these tokens if they are known.
    """
    path = log_probs.argmax(-1) if path is None else path
    tokens, token_lengths = collapse(path, lengths)
    weight = torch.ones_like(log_probs[:, 0, 0])
    return PseudoLabel(log_probs, lengths, tokens, token_lengths, weight)


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Run without gradient, and leave nothing of it to the student's own forward.

    In mixed precision autocast keeps copies of the weights for the rest of the step. In
    torch 2.5 to 2.8, and perhaps later, those made here have no graph: a student that
    labels had no gradient (https://github.com/pytorch/pytorch/issues/158232).
    """
    try:
        with torch.no_grad():
            yield
    finally:
        torch.clear_autocast_cache()


@dataclasses.dataclass(eq=False)
class PseudoLabelGenerator:
    """Labels un-augmented audio with a teacher in eval mode, online."""

    teacher: Teacher
    layers: bool = False  # Whether intermediate layers label too.

    @_apart()
    def run(
        self,
        student: torch.nn.Module,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        dropout: bool = False,
    ) -> TeacherOutputs:
        """Run the teacher on a mini-batch, without gradient.

        Args:
            student: The model in training. It, and so the teacher, has a method
                `ctc_outputs(speech, speech_lengths, layers)` that returns
                `CTCOutputs`, and augments in train mode only.
            speech: Waveforms, (B, N).
            speech_lengths: Samples per utterance, (B,).
            dropout: Label with the teacher's dropout on, and all else in eval mode.
        """
        with evaluating(self.teacher.module(student)) as module:
            dropping = dropouts(module) if dropout else []
            for part in dropping:
                part.training = True
            try:
                outputs = module.ctc_outputs(speech, speech_lengths, self.layers)
            finally:
                for part in dropping:
                    part.training = False
        path = best_path(outputs.log_probs, outputs.lengths)
        label = as_label(outputs.log_probs, outputs.lengths, path)
        layers = []
        for log_probs in outputs.layers:
            layer = as_label(log_probs, outputs.lengths)
            has_speech = (layer.token_lengths > 0) | (label.token_lengths == 0)  # (B,)
            layers.append(layer._replace(weight=has_speech.to(layer.weight)))
        return TeacherOutputs(label, path, outputs.encoder_out, tuple(layers))

    def __call__(
        self,
        student: torch.nn.Module,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        dropout: bool = False,
    ) -> PseudoLabel:
        """Return the CTC head's labels of a mini-batch, (B, N); see `run`."""
        return self.run(student, speech, speech_lengths, dropout).label

    @_apart()
    def force(
        self, student: torch.nn.Module, outputs: TeacherOutputs, label: PseudoLabel
    ) -> tuple[DecoderLabel, torch.Tensor]:
        """Feed the teacher's decoder with transcripts, all positions at once.

        Source: CTC-driven teacher forcing, USR 2.0 (Haliassos et al. 2026,
        https://arxiv.org/abs/2602.19316).

        Args:
            student: The model in training. It, and so the teacher, has a method
                `decoder_scores(encoder_out, lengths, tokens, token_lengths)` that
                returns scores (B, P, V) and the transcripts with their ends, (B, P),
                padded with -1.
            outputs: What `run` returned.
            label: The labels whose transcripts are fed, shaped or not.

        Returns:
            What the decoder answers, without gradient, and the transcripts fed, (B, P).
        """
        with evaluating(self.teacher.module(student)) as module:
            scores, targets = module.decoder_scores(
                outputs.encoder_out, label.lengths, label.tokens, label.token_lengths
            )
        log_probs = scores.float().log_softmax(-1)
        lengths = (targets != PADDING).sum(1)
        mask = frame_mask(lengths, targets.size(1))
        tokens = log_probs.argmax(-1).masked_fill(~mask, PADDING)
        return DecoderLabel(tokens, lengths, log_probs), targets
