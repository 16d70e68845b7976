"""Whether anything was learned from unlabeled mini-batches, and why not."""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

NO_WEIGHT = "mini-batches of weight 0 (lambda)"
UNUSABLE = "utterances whose audio or loss cannot be used"
NO_TRUST = "utterances whose label has a weight of 0 (by shaping, or not finite)"


def _words(counts: collections.Counter[str], when: str) -> str:
    if counts["learned"]:
        return ""
    others = sorted(what for what, n in counts.items() if n and what != "seen")
    why = [f"{counts['seen']} mini-batches", *(f"{counts[w]} {w}" for w in others)]
    return f"no unlabeled mini-batch was learned from in {when}: {', '.join(why)}"


class LearnedFrom:
    """Counts unlabeled mini-batches, in an epoch and in the run, by filters' names."""

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
        """Count a mini-batch: labels with a weight, their `Labels.reason`, lambda."""
        counts = collections.Counter(seen=1)
        counts["learned"] = int(factor > 0 and any(kept))
        counts[NO_WEIGHT] = int(factor == 0)
        for is_kept, index, is_usable in zip(kept, reason, usable):
            if 0 <= index < len(self._filters):
                why = f"utterances dropped by {self._filters[index]}"
            else:
                why = NO_TRUST if is_usable else UNUSABLE
            counts[why] += not is_kept
        self._epoch += counts
        self._run += counts

    def end_epoch(self, epoch: int) -> str:
        """Start the next epoch; return a warning, empty if something was learned."""
        words = _words(self._epoch, f"epoch {epoch}")
        self._epoch.clear()
        return words

    def end_run(self) -> str:
        """Return what is wrong with the whole run, empty if something was learned."""
        return _words(self._run, "the whole run")

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {"epoch": dict(self._epoch), "run": dict(self._run)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._epoch = collections.Counter(state["epoch"])
        self._run = collections.Counter(state["run"])
