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
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

# Another stream than the schedule's, which is drawn from [seed, block].
STREAM = 1


@dataclasses.dataclass(frozen=True)
class Load:
    """One unlabeled mini-batch to read."""

    number: int  # Its place in the endless sequence of unlabeled mini-batches.
    slot: int  # The slot of the cache that it belongs to.
    insert: bool  # To label and store it; else to train on it.


class Position(NamedTuple):
    """What a plan has come to before a draw."""

    draw: int
    fresh: int  # The mini-batch that is read next.
    slots: Sequence[int]  # The mini-batch in each.
    visits: list[tuple[int, int]]  # Those not yet decided: slot, mini-batch.


@dataclasses.dataclass
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
    # The first draw that was asked for last: later ones need no replay from draw 0.
    position: Position | None = dataclasses.field(
        init=False, default=None, compare=False, repr=False
    )

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

        At most one load to insert, before the one to train on; draws of the filling
        only insert. Without a probability, `evicted` tells whether the visit at a draw,
        `lag` or more before the current one, was decided to evict the mini-batch.
        """
        for draw in range(first, self.size):
            yield [Load(draw, draw, insert=True)]
        first = max(first, self.size)
        begin = self.position
        if begin is None or begin.draw > first:
            begin = Position(self.size, self.size, range(self.size), [])
        start, fresh, slots, visits = begin
        slots, visits = list(slots), list(visits)
        order, chances = self._pass((start - self.size) // self.size)
        for draw in itertools.count(start):
            if draw == first:
                self.position = Position(draw, fresh, list(slots), list(visits))
            turn, position = divmod(draw - self.size, self.size)
            if position == 0:
                order, chances = self._pass(turn)
            slot = target = int(order[position])
            loads, replaced = [Load(slots[slot], slot, insert=False)], False
            if self.probability is not None:
                replaced = chances[position] < self.probability
            else:
                visits.append((slot, slots[slot]))
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

    def state_dict(self) -> dict[str, Any] | None:
        """Return the position, if there is one, and which plan it is of."""
        if self.position is None:
            return None
        numbers = dict(self.position._asdict(), slots=torch.tensor(self.position.slots))
        return {"plan": self._identity(), **numbers}

    def load_state_dict(self, state: dict[str, Any] | None) -> None:
        """Go on from a position; one of another plan (or none) is replayed from 0."""
        self.position = None
        if state is not None and state["plan"] == self._identity():
            numbers = dict(state, slots=state["slots"].tolist())
            del numbers["plan"]
            self.position = Position(**numbers)

    def _identity(self) -> list[Any]:
        return [self.size, self.seed, self.probability, self.in_place, self.lag]
