"""From waveforms to pseudo-labels: the teacher's view of an unlabeled mini-batch."""

from typing import NamedTuple

import torch
from torch import Tensor

from espnet_softpl.core.modules import dropouts, evaluating
from espnet_softpl.ctc import PADDING, frame_mask, greedy
from espnet_softpl.labels.pseudo_label import DecoderLabel, PseudoLabel
from espnet_softpl.teacher import Teacher


class CTCOutputs(NamedTuple):
    """What a model's encoder and CTC head make of a batch."""

    log_probs: Tensor  # Frame log-posteriors of the last layer, (B, T, V), in float32.
    lengths: Tensor  # Frames per utterance, (B,).
    encoder_out: Tensor  # What a decoder attends to, (B, T, D).
    layers: tuple[Tensor, ...] = ()  # `log_probs` of intermediate layers, if asked for.

    def views(self, count: int) -> list["CTCOutputs"]:
        """Split the outputs of `count` views that were run as one batch."""
        layers = [layer.chunk(count) for layer in self.layers]
        parts = zip(*(part.chunk(count) for part in self[:3]))
        return [
            CTCOutputs(*part, tuple(layer[i] for layer in layers))
            for i, part in enumerate(parts)
        ]


class TeacherOutputs(NamedTuple):
    """What a teacher makes of a batch."""

    label: PseudoLabel  # What its CTC head makes, with full trust.
    encoder_out: Tensor  # What its decoder attends to, (B, T, D).
    layers: tuple[PseudoLabel, ...] = ()  # What intermediate layers make, in order.


def as_label(log_probs: Tensor, lengths: Tensor) -> PseudoLabel:
    """Label by the best token of every frame, (B, T, V), with full trust."""
    tokens, token_lengths = greedy(log_probs, lengths)
    weight = torch.ones_like(log_probs[:, 0, 0])
    return PseudoLabel(log_probs, lengths, tokens, token_lengths, weight)


class PseudoLabelGenerator:
    """Labels un-augmented audio with a teacher in eval mode, online.

    With `layers`, intermediate layers label too.
    """

    def __init__(self, teacher: Teacher, layers: bool = False) -> None:
        self.teacher = teacher
        self.layers = layers

    @torch.no_grad()
    def run(
        self,
        student: torch.nn.Module,
        speech: Tensor,
        speech_lengths: Tensor,
        dropout: bool = False,
    ) -> TeacherOutputs:
        """Run the teacher on a mini-batch.

        Args:
            student: The model in training. It, and so the teacher, has a method
                `ctc_outputs(speech, speech_lengths, layers)` that returns
                `CTCOutputs`, and augments in train mode only.
            speech: Waveforms, (B, N).
            speech_lengths: Samples per utterance, (B,).
            dropout: Label with the teacher's dropout on, and all else in eval mode.

        Returns:
            The outputs, without gradient.
        """
        with evaluating(self.teacher.module(student)) as module:
            if dropout:
                for part in dropouts(module):
                    part.train()
            outputs = module.ctc_outputs(speech, speech_lengths, self.layers)
        label = as_label(outputs.log_probs, outputs.lengths)
        layers = []
        for log_probs in outputs.layers:
            layer = as_label(log_probs, outputs.lengths)
            # Else it would learn to output nothing for speech.
            is_trusted = (layer.token_lengths > 0) | (label.token_lengths == 0)
            layers.append(layer._replace(weight=is_trusted.to(layer.weight)))
        return TeacherOutputs(label, outputs.encoder_out, tuple(layers))

    def __call__(
        self,
        student: torch.nn.Module,
        speech: Tensor,
        speech_lengths: Tensor,
        dropout: bool = False,
    ) -> PseudoLabel:
        """Return the CTC head's labels of a mini-batch, (B, N); see `run`."""
        return self.run(student, speech, speech_lengths, dropout).label

    @torch.no_grad()
    def force(
        self, student: torch.nn.Module, outputs: TeacherOutputs, label: PseudoLabel
    ) -> tuple[DecoderLabel, Tensor]:
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
            What the decoder answers, without gradient, and the transcripts with their
            ends, (B, P), padded with -1.
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
