"""The label cache: the labels in its slots, and the decisions about them."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import torch

from espnet_softpl.cache.packing import pack, unpack
from espnet_softpl.cache.plan import CachePlan
from espnet_softpl.cache.settings import CacheSettings, LabelChange
from espnet_softpl.cache.store import LabelStore
from espnet_softpl.ctc.edit_distance import distance
from espnet_softpl.labels.forms import LabelForms
from espnet_softpl.labels.pseudo_label import Labels

CACHE_DIR = "pl_cache"  # In the experiment directory; one directory per process in it.

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Counts:
    """What has happened in a cache, of one process."""

    made: int = 0  # Labels of mini-batches, the filling included.
    replaced: int = 0  # Of these.
    uses: int = 0  # Training steps on those that have been replaced.
    updates: int = 0  # Unlabeled updates between their making and their replacement.
    missed: int = 0  # Visits that met no labels, because a back-off had cleared them.


class LabelCache:
    """The labels in the slots, and the decisions about them."""

    def __init__(
        self,
        settings: CacheSettings,
        keep_posteriors: bool,  # Whether anything looks at the labels' posteriors.
        directory: Path,  # Of this process alone.
        forms: LabelForms = LabelForms(),
    ) -> None:
        if settings.memory_limit_mb is not None:
            logger.warning(
                "pl_cache_conf.memory_limit_mb has no effect any more: all labels are "
                "in files in %s, and the system keeps those in memory as it has room",
                directory,
            )
        self.settings = settings
        # Labels are made at every visit, to decide about the slot, and they replace
        # those of a mini-batch that stays.
        self.decides = isinstance(settings, LabelChange)
        self.refreshes = self.decides and settings.refresh
        # Labels are made once more when they are replaced.
        self.measures_change = getattr(settings, "measure_change", False)
        self.counts = Counts()
        self._keep_posteriors = keep_posteriors
        self._compression = settings.compression()
        self._forms = forms
        self._store = LabelStore(directory)
        self._uses: dict[int, int] = {}  # By slot, as the draw of the insertion.
        self._inserted_at: dict[int, int] = {}
        self._decisions: list[bool] = []  # Of the visits, in order.
        self.plan: CachePlan | None = None  # The one that the data loader follows.

    def take(self, slot: int, utterance_ids: list[str], device: Any) -> Labels | None:
        """Return a slot's labels, if any, to train on them, and count the use."""
        if slot not in self._store:
            self.counts.missed += 1
            return None
        labels = unpack(self._store.get(slot), self._compression, device)
        if labels.utterance_ids != list(utterance_ids):
            raise RuntimeError(
                f"slot {slot} of the label cache has labels of "
                f"{labels.utterance_ids[:3]}, the loader brought {utterance_ids[:3]}"
            )
        self._uses[slot] += 1
        return dataclasses.replace(labels, uses=self._uses[slot])

    def insert(self, slot: int, labels: Labels, draw: int) -> None:
        """Store labels of a mini-batch in a slot, at a draw of the plan."""
        if slot in self._store:
            self.counts.replaced += 1
            self.counts.uses += self._uses[slot]
            self.counts.updates += draw - self._inserted_at[slot]
        self.counts.made += 1
        self._uses[slot] = 0
        self._inserted_at[slot] = draw
        self._store.put(slot, pack(labels, self._compression, self._keep_posteriors))

    @property
    def turnover(self) -> float:
        """How often the labels of a slot have been made on average so far."""
        return self.counts.made / self.plan.size

    def decide(self, draw: int, change: float) -> None:
        """Decide on a slot's eviction, with the change of its labels as probability."""
        if draw != self.plan.size + len(self._decisions):
            raise RuntimeError(
                f"label cache: draw {draw} was trained on after "
                f"{len(self._decisions)} visits of {self.plan.size} slots"
            )
        self._decisions.append(self.plan.chance(draw) < change)

    def evicted(self, draw: int) -> bool:
        """Tell whether the visit at a draw was decided to evict the mini-batch."""
        visit = draw - self.plan.size
        if visit >= len(self._decisions):
            raise RuntimeError(
                f"pl_cache_conf.lag: {self.settings} is too short: the loader asked "
                f"for the decision at draw {draw} before it was taken"
            )
        return self._decisions[visit]

    def clear(self) -> None:
        """Forget all labels; the slots get new ones when they are visited next."""
        for slots in (self._store, self._uses, self._inserted_at):
            slots.clear()

    def forget_files(self, states: list[dict[str, Any]]) -> None:
        """Delete files of labels neither in use nor in a state that may be resumed."""
        self._store.forget([state["store"] for state in states])

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, tensors and plain values only."""
        store = self._store.state_dict()
        slots = self._store.slots()
        return {
            "settings": self._identity(),
            "counts": dataclasses.asdict(self.counts),
            "store": store,
            # In the order of the slots.
            "uses": torch.tensor([self._uses[slot] for slot in slots]),
            "inserted_at": torch.tensor([self._inserted_at[slot] for slot in slots]),
            "decisions": torch.tensor(self._decisions, dtype=torch.bool),
            "position": self.plan and self.plan.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state; ValueError if it is that of a cache with other settings."""
        saved, now = dict(state["settings"]), self._identity()
        saved.pop("measure_change", None)  # Saved once; no label depends on it.
        differ = [k for k in {**saved, **now} if saved.get(k) != now.get(k)]
        if differ:
            words = "; ".join(f"{k}: {saved.get(k)!r}, {now.get(k)!r}" for k in differ)
            raise ValueError(
                f"pl_cache, pl_cache_conf: the saved labels belong to other settings "
                f"(saved, given): {words}"
            )
        self.counts = Counts(**state["counts"])
        self._store.load_state_dict(state["store"])
        self._uses = self._by_slot(state["uses"])
        self._inserted_at = self._by_slot(state["inserted_at"])
        self._decisions = state["decisions"].tolist()
        if self.plan is not None:
            self.plan.load_state_dict(state.get("position"))

    def _by_slot(self, values: Any) -> dict[int, int]:
        """Give the slots their saved numbers, in a dict already in older states."""
        if isinstance(values, dict):
            return dict(values)
        return dict(zip(self._store.slots(), values.tolist(), strict=True))

    def _identity(self) -> dict[str, Any]:
        """Return the settings that saved labels depend on."""
        settings = dataclasses.asdict(self.settings)
        del settings["memory_limit_mb"]
        settings.pop("measure_change", None)
        kind = type(self.settings).__name__
        return {"pl_cache": kind, **settings, **self._forms.identity()}


def label_change(old: Labels, new: Labels) -> float:
    """Return the edits per token of the old transcripts, at most 1, on average."""
    changes = distance(*old.transcripts(), *new.transcripts())
    return float(changes.clamp(max=1.0).mean())
