"""What came of an unlabeled mini-batch."""

from __future__ import annotations

from typing import NamedTuple

import torch

from espnet_softpl.core.modules import read_columns
from espnet_softpl.labels.pseudo_label import Labels, PseudoLabel


class Outcome(NamedTuple):
    """Losses of a mini-batch, and what they were computed from.

    All is on the model's device; `read` tells the host, which waits for it.
    """

    losses: dict[str, torch.Tensor]  # Scalars with gradient, by branch.
    label: PseudoLabel  # With the final weight.
    log_probs: torch.Tensor  # The student's log-posteriors, (B, T, V).
    lengths: torch.Tensor  # Frames per utterance, (B,).
    best: torch.Tensor  # The highest log-posterior of each frame, (B, T).
    sound: torch.Tensor  # Whose posteriors are finite, (B,).
    usable: torch.Tensor  # Whose audio, posteriors and loss can be used, (B,).

    def read(
        self, labels: Labels, samples: torch.Tensor, silent: torch.Tensor | None
    ) -> dict[str, list[int]]:
        """Read what the host must know of each utterance.

        Args:
            labels: The labels as they were made.
            samples: Of each utterance, (B,).
            silent: A scalar, whether the teacher has said nothing finite, if it has
                been asked.

        Returns:
            Lists of B by name: `kept`, `reason` (of `labels`), `usable`, `sound`,
            `same_frames` as the label's, `samples` and `silent`.
        """
        if silent is None:
            silent = torch.zeros_like(self.sound[:1])
        return read_columns(
            kept=self.label.weight > 0,
            reason=labels.reason,
            usable=self.usable,
            sound=self.sound,
            same_frames=self.lengths == self.label.lengths,
            samples=samples,
            silent=silent.expand_as(self.sound),
        )


def frames_differ(label: PseudoLabel, lengths: torch.Tensor) -> RuntimeError:
    """Say that a label is not of the student's frames, of lengths (B,)."""
    return RuntimeError(
        f"teacher and student disagree on the number of frames: "
        f"{label.lengths.tolist()} and {lengths.tolist()}"
    )
