"""True transcripts of unlabeled audio, for measuring pseudo-labels only.

They never enter a mini-batch, so they cannot reach a loss: the model hands over
utterance ids and finished pseudo-labels, and gets two numbers back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import kaldialign

Rates = tuple[float, float]  # WER and CER.


def _count(reference: str, hypothesis: str) -> list[int]:
    """Count wrong and true words, wrong and true characters."""
    counts = []
    for split in (str.split, list):
        true, said = split(reference), split(hypothesis)
        counts += [kaldialign.edit_distance(true, said)["total"], len(true)]
    return counts


def _rates(counts: Iterable[list[int]]) -> Rates:
    """Sum `_count` over utterances, and divide."""
    words, of_words, characters, of_characters = map(sum, zip((0, 0, 0, 0), *counts))
    wer = words / of_words if of_words else math.nan
    return wer, characters / of_characters if of_characters else math.nan


def error_rates(references: Sequence[str], hypotheses: Sequence[str]) -> Rates:
    """Compute WER and CER of a batch; NaN without words or characters, spaces too."""
    return _rates(map(_count, references, hypotheses))


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
        transcripts: Sequence[list[int]],
        kept: Sequence[bool],
    ) -> tuple[Rates, Rates, Rates]:
        """Compute WER and CER of pseudo-labels: of all, the kept, and the others.

        Only utterances that have a true transcript are scored; NaN if none has.
        """
        of_kept, of_others = [], []
        for key, tokens, is_kept in zip(utterance_ids, transcripts, kept):
            if key in self._texts:
                counts = _count(self._texts[key], self._to_text(tokens))
                (of_kept if is_kept else of_others).append(counts)
        return _rates(of_kept + of_others), _rates(of_kept), _rates(of_others)
