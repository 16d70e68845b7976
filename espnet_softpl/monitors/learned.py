"""Whether anything was learned from unlabeled mini-batches, and why not."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

NO_WEIGHT = "mini-batches of weight 0 (lambda)"
UNUSABLE = "utterances whose audio or loss cannot be used"
NO_TRUST = "utterances whose label has a weight of 0 (by shaping, or not finite)"


class LearnedFrom:
    """Counts unlabeled mini-batches, in an epoch and in the run.

    Args:
        filters: Names of the filters, in their order.
    """

    def __init__(self, filters: Sequence[str]) -> None:
        self._filters = filters
        self._epoch: collections.Counter[str] = collections.Counter()
        self._run: collections.Counter[str] = collections.Counter()

    def count(
        self,
        kept: Sequence[bool],
        reason: Sequence[int],
        usable: Sequence[bool],
        factor: float,
    ) -> None:
        """Count a mini-batch: whether each label has a weight, and its `Labels.reason`.

        `usable` tells whose audio and loss can be used; `factor` is lambda.
        """
        counts = collections.Counter(seen=1)
        counts["learned"] = int(factor > 0 and any(kept))
        counts[NO_WEIGHT] = int(factor == 0)
        for is_kept, index, is_usable in zip(kept, reason, usable):
            if not is_kept:
                counts[self._why(index, is_usable)] += 1
        self._epoch += counts
        self._run += counts

    def _why(self, index: int, is_usable: bool) -> str:
        """Name the reason why an utterance was not learned from."""
        if 0 <= index < len(self._filters):
            return f"utterances dropped by {self._filters[index]}"
        return NO_TRUST if is_usable else UNUSABLE

    @staticmethod
    def _words(counts: collections.Counter[str], when: str) -> str:
        if counts["learned"]:
            return ""
        others = sorted(what for what, n in counts.items() if n and what != "seen")
        why = [f"{counts[what]} {what}" for what in others]
        why = ", ".join([f"{counts['seen']} mini-batches", *why])
        return f"no unlabeled mini-batch was learned from in {when}: {why}"

    def end_epoch(self, epoch: int) -> str:
        """Start the next epoch; return a warning, empty if something was learned."""
        words = self._words(self._epoch, f"epoch {epoch}")
        self._epoch.clear()
        return words

    def end_run(self) -> str:
        """Return what is wrong with the whole run, empty if something was learned."""
        return self._words(self._run, "the whole run")

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"epoch": dict(self._epoch), "run": dict(self._run)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._epoch = collections.Counter(state["epoch"])
        self._run = collections.Counter(state["run"])
