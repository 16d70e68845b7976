"""What a few unlabeled utterances were labeled with over time, for people to read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from espnet_softpl.core.files import atomic_write
from espnet_softpl.core.registry import Stateful
from espnet_softpl.ctc import greedy
from espnet_softpl.labels.confidence import utterance_confidence
from espnet_softpl.labels.pseudo_label import Labels, PseudoLabel

SAMPLES_DIR = "pl_samples"  # In the experiment directory; one file per epoch and rank.
OTHER_REASON = "other"  # Audio that could not be read, a loss that is not finite.


class SampleRecorder(Stateful):
    """Records the labels of chosen utterances whenever they are trained on."""

    def __init__(
        self,
        utterance_ids: Iterable[str],
        to_text: Callable[[list[int]], str],
        filter_names: Sequence[str] = (),
    ) -> None:
        self._ids = frozenset(utterance_ids)
        self._to_text = to_text
        self._reasons = dict(enumerate(filter_names))
        self._rows: list[dict[str, Any]] = []

    def record(
        self, step: int, labels: Labels, label: PseudoLabel, log_probs: torch.Tensor
    ) -> None:
        """Record chosen utterances; `log_probs` (B, T, V) are the student's."""
        for row, key in enumerate(labels.utterance_ids):
            if key not in self._ids:
                continue
            one, weight = slice(row, row + 1), float(label.weight[row])
            lengths = label.lengths[one]
            tokens, length = greedy(log_probs[one].detach(), lengths)
            confidence = float(utterance_confidence(label.log_probs[one], lengths))
            reason = self._reasons.get(int(labels.reason[row]), OTHER_REASON)
            self._rows.append(
                {
                    "step": step,
                    "made": labels.step,
                    "utterance": key,
                    "label": self._text(label.tokens[row], label.token_lengths[row]),
                    "student": self._text(tokens[0], length[0]),
                    "weight": weight,
                    "confidence": round(confidence, 4),
                    "dropped_by": "" if weight > 0.0 else reason,
                }
            )

    def _text(self, tokens: torch.Tensor, length: torch.Tensor) -> str:
        return self._to_text(tokens[: int(length)].tolist())

    def write(self, output_dir: Path, epoch: int, rank: int) -> None:
        """Write the records of an epoch, a JSON object a line, and begin anew."""
        path = output_dir / SAMPLES_DIR / f"{epoch}epoch.rank{rank}.jsonl"
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in self._rows]
        self._rows = []
        if not lines:
            path.unlink(missing_ok=True)
            return
        with atomic_write(path) as file:
            file.writelines(lines)

    def state_dict(self) -> dict[str, Any]:
        """Return the records of an epoch that is not finished."""
        return {"rows": list(self._rows)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._rows = list(state["rows"])
