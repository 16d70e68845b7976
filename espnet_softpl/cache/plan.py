"""Which unlabeled mini-batch the label cache reads, labels and trains on, and when.

A *draw* is an unlabeled turn of the schedule, counted from 0. The first C draws fill
the cache; each one after them visits a slot, in passes over all slots in an order drawn
anew for each pass, as slimIPL's published code does (https://arxiv.org/abs/2010.11524,
wav2letter recipes/slimIPL). A plan follows from seed, draw and the decisions taken:
data loading can run ahead of training, and a resumed run goes on alike.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np

# Another stream than the schedule's, which is drawn from [seed, block].
STREAM = 1


@dataclasses.dataclass(frozen=True)
class Load:
    """One unlabeled mini-batch to read."""

    number: int  # Its place in the endless sequence of unlabeled mini-batches.
    slot: int  # The slot of the cache that it belongs to.
    insert: bool  # To label and store it; else to train on it.


@dataclasses.dataclass(frozen=True)
class CachePlan:
    """The visits of a cache with C slots, each of them one mini-batch.

    At each visit the slot gets another mini-batch with probability p, which is first
    trained on at the next visit. Without p it does so as `evicted` says, `lag` draws
    after the visit.
    """

    size: int  # C, at least 1.
    seed: int
    probability: float | None = 0.1  # p, in [0, 1].
    in_place: bool = False  # Label the same mini-batch again, take no other.
    lag: int = 1  # At least 1: more than the loader reads ahead.

    def _pass(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the order of the slots in a pass, and a number in [0, 1) for each."""
        rng = np.random.default_rng([self.seed, STREAM, number])
        return rng.permutation(self.size), rng.random(self.size)

    def chance(self, draw: int) -> float:
        """Return a visit's number in [0, 1): below p, another mini-batch comes."""
        turn, position = divmod(draw - self.size, self.size)
        return float(self._pass(turn)[1][position])

    def draws(
        self, first: int, evicted: Callable[[int], bool] | None = None
    ) -> Iterator[list[Load]]:
        """Yield what each draw reads, from one draw on, without end.

        Args:
            first: The first draw asked for.
            evicted: Tells whether the visit at a draw, `lag` or more before the current
                one, was decided to evict the mini-batch. Needed without a probability.

        Yields:
            The loads of a draw: at most one to insert, before the one to train on;
            draws of the filling only insert.
        """
        for draw in range(first, self.size):
            yield [Load(draw, draw, insert=True)]
        slots = list(range(self.size))  # The mini-batch in each.
        fresh = self.size
        visits: list[tuple[int, int]] = []  # Those not yet decided: slot, mini-batch.
        for draw in itertools.count(self.size):
            turn, position = divmod(draw - self.size, self.size)
            if position == 0:
                order, chances = self._pass(turn)
            slot = int(order[position])
            loads = [Load(slots[slot], slot, insert=False)]
            if self.probability is not None:
                target, replaced = slot, chances[position] < self.probability
            else:
                visits.append((slot, slots[slot]))
                target, replaced = slot, False
                if len(visits) > self.lag:
                    target, number = visits.pop(0)
                    # The slot may have got another mini-batch since.
                    replaced = slots[target] == number and evicted(draw - self.lag)
            if replaced:
                slots[target] = slots[target] if self.in_place else fresh
                fresh += not self.in_place
                loads.insert(0, Load(slots[target], target, insert=True))
            if draw >= first:
                yield loads
