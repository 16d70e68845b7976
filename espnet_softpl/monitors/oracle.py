"""True transcripts of unlabeled audio, which never enter a mini-batch or a loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import editdistance
import torch

from espnet_softpl.labels.pseudo_label import PseudoLabel
from espnet_softpl.monitors import statistics

Rates = tuple[float, float]  # WER and CER.


def _count(reference: str, hypothesis: str) -> list[int]:
    """Count wrong and true words, wrong and true characters."""
    counts = []
    for split in (str.split, str):  # A text is the list of its characters.
        true, said = split(reference), split(hypothesis)
        counts += [editdistance.eval(true, said), len(true)]
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
        self, utterance_ids: Sequence[str], label: PseudoLabel
    ) -> dict[str, float]:
        """Return error rates of all labels, the used, and the others; or NaN."""
        columns = label.tokens, label.token_lengths[:, None], label.weight[:, None] > 0
        rows = torch.cat(columns, 1).tolist()
        dropped, used = [], []
        for key, (*tokens, length, is_used) in zip(utterance_ids, rows):
            if key in self._texts:
                said = self._to_text(tokens[:length])
                counts = _count(self._texts[key], said)
                (used if is_used else dropped).append(counts)
        wer, cer = _rates(dropped + used)
        return {
            statistics.WER.name: wer,
            statistics.CER.name: cer,
            statistics.WER_KEPT.name: _rates(used)[0],
            statistics.WER_DROPPED.name: _rates(dropped)[0],
        }
