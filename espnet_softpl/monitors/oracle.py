"""True transcripts of unlabeled audio, for measuring pseudo-labels only.

They never enter a mini-batch, so they cannot reach a loss: the model hands over
utterance ids and finished pseudo-labels, and gets two numbers back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import kaldialign
import torch


def error_rates(
    references: Sequence[str], hypotheses: Sequence[str]
) -> tuple[float, float]:
    """Compute WER and CER of a batch of transcripts.

    They are fractions of the batch's reference words and characters (spaces count as
    characters); NaN if there are none.
    """
    rates = []
    for split in (str.split, list):
        pairs = [(split(r), split(h)) for r, h in zip(references, hypotheses)]
        total = sum(len(r) for r, _ in pairs)
        errors = sum(kaldialign.edit_distance(r, h)["total"] for r, h in pairs)
        rates.append(errors / total if total else float("nan"))
    return rates[0], rates[1]


class Oracle:
    """Scores pseudo-labels against true transcripts, `texts`, by utterance id."""

    def __init__(
        self, texts: dict[str, str], to_text: Callable[[list[int]], str]
    ) -> None:
        self._texts = texts
        self._to_text = to_text

    def score(
        self,
        utterance_ids: Sequence[str],
        tokens: torch.Tensor,
        token_lengths: torch.Tensor,
        chosen: torch.Tensor | None = None,
    ) -> tuple[float, float]:
        """Compute WER and CER of pseudo-labels (B, U); NaN without any transcript.

        Only the utterances that have a transcript and are `chosen` (B,) are scored.
        """
        rows = [row[:n] for row, n in zip(tokens.tolist(), token_lengths.tolist())]
        is_chosen = [True] * len(rows) if chosen is None else chosen.tolist()
        scored = [
            (self._texts[key], self._to_text(row))
            for key, row, wanted in zip(utterance_ids, rows, is_chosen)
            if wanted and key in self._texts
        ]
        references, hypotheses = zip(*scored) if scored else ((), ())
        return error_rates(references, hypotheses)
