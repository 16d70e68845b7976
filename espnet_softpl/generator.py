"""From waveforms to pseudo-labels: the teacher's view of an unlabeled mini-batch.

B utterances, N samples, T frames after subsampling, V tokens with blank, U labels.
"""

from __future__ import annotations

import torch

from espnet_softpl.criteria.base import PseudoLabel
from espnet_softpl.ctc import greedy
from espnet_softpl.dropout import dropouts
from espnet_softpl.teacher import Teacher, evaluating


class PseudoLabelGenerator:
    """Labels un-augmented audio with a teacher in eval mode, online.

    Args:
        teacher: Who labels.
    """

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher

    @torch.no_grad()
    def __call__(
        self,
        student: torch.nn.Module,
        speech: torch.Tensor,
        speech_lengths: torch.Tensor,
        dropout: bool = False,
    ) -> PseudoLabel:
        """Label a mini-batch.

        Args:
            student: The model in training. It, and so the teacher, has a method
                `ctc_log_probs(speech, speech_lengths)` that returns log_probs
                (B, T, V) and lengths (B,), and augments in train mode only.
            speech: Waveforms, (B, N).
            speech_lengths: Samples per utterance, (B,).
            dropout: Label with the teacher's dropout on, and all else in eval mode.

        Returns:
            The labels, without gradient, with full trust.
        """
        with evaluating(self.teacher.module(student)) as module:
            if dropout:
                for part in dropouts(module):
                    part.train()
            log_probs, lengths = module.ctc_log_probs(speech, speech_lengths)
        tokens, token_lengths = greedy(log_probs, lengths)
        weight = torch.ones_like(log_probs[:, 0, 0])
        return PseudoLabel(log_probs, lengths, tokens, token_lengths, weight)
