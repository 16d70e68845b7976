"""Which mini-batch is labeled, and what an unlabeled one weighs, step by step.

A step is one mini-batch of training, counted from 0 over all epochs. A turn is one
entry of the schedule: a step, or one of the first unlabeled turns, which only fill the
label cache. All depends on the seed and the step alone, so that resumed runs, loaders
and processes see the same. One labeled, two unlabeled in a block, a cache of two:

    turn       0 1 2 3 4 5 6 7 8
    unlabeled  0 1 1 0 1 1 0 1 1
    step       0 - - 1 2 3 4 5 6
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from espnet_softpl.core import ranges
from espnet_softpl.core.registry import Stateful

T = TypeVar("T")
FORMS = ("block", "interleaved")


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How labeled and unlabeled mini-batches alternate (`pl_schedule_conf`).

    From `start_step` on, training goes in blocks of `labeled_steps` labeled and
    `unlabeled_steps` unlabeled mini-batches (slimIPL's N_L : N_U,
    https://arxiv.org/abs/2010.11524).

    In the `block` form a block, or `accum_grad` of them, makes one update, with the
    gradient of the objective (https://arxiv.org/abs/2211.06007)

        mean of the labeled losses + weight * mean of the unlabeled losses

    In the `interleaved` form, slimIPL's, each mini-batch makes an update (with
    `accum_grad`, each few in a row), in a random order for each block. An update
    is then of one kind, and clipping its gradient divides `weight` out again: the ratio
    of the two kinds is what balances them.

    Attributes:
        form: `block` or `interleaved`.
        start_step: Number of labeled steps (mini-batches) before the first block
            (slimIPL's M); 0 starts at once, as one does from a base model.
        labeled_steps: Labeled mini-batches per block, at least 0.
        unlabeled_steps: Unlabeled mini-batches per block, at least 1.
        weight: Factor on the unlabeled loss (lambda), at least 0; a number or a ramp.
        ramp_steps: Steps over which the factor rises linearly from 0 to `weight`,
            counted from `start_step`; 0 for none.
        dropout: Dropout rate from `start_step` on, in [0, 1], of all layers that drop
            something before; None leaves the rates as they are. slimIPL lowers both
            this and the next when pseudo-labeling starts.
        layer_drop: The same for the rate at which whole layers are dropped.
    """

    form: str = "block"
    start_step: int = 0
    labeled_steps: int = 1
    unlabeled_steps: int = 3
    weight: float | Mapping[str, Any] = 1.0
    ramp_steps: int = 0
    dropout: float | None = None
    layer_drop: float | None = None

    def __post_init__(self) -> None:
        ranges.choice("form", self.form, FORMS)
        least = dict(start_step=0, labeled_steps=0, unlabeled_steps=1, ramp_steps=0)
        for name, low in least.items():
            ranges.at_least(name, getattr(self, name), low)
        for step in (0, last_step(self.weight)):
            ranges.not_negative("weight", resolve(self.weight, step))
        for name in ("dropout", "layer_drop"):
            if getattr(self, name) is not None:
                ranges.fraction(name, getattr(self, name))

    @property
    def block_steps(self) -> int:
        """Mini-batches in one block."""
        return self.labeled_steps + self.unlabeled_steps

    def update_steps(self, accum_grad: int) -> int:
        """Return the mini-batches of one update, by ESPnet's `accum_grad`."""
        return accum_grad * (self.block_steps if self.form == "block" else 1)

    def updates(self, mini_batches: int, accum_grad: int) -> int:
        """Return the updates that so many mini-batches make, at least 1."""
        size = self.update_steps(accum_grad)
        left = size - 1 if self.form == "block" else 0  # It is rounded up to a whole.
        return max((mini_batches + left) // size, 1)

    def factors(self, unlabeled: Sequence[bool], accum_grad: int) -> list[float]:
        """Return what each loss is multiplied by, (steps,), so that an update is right.

        ESPnet divides every loss by the mini-batches of an update, N, however many of
        them are labeled. In the block form N / n makes that the mean over the n of the
        same kind; two blocks of one labeled and two unlabeled mini-batches:

            unlabeled  0   1   1   0   1   1
            factor     3  1.5 1.5  3  1.5 1.5

        The steps begin with an update, as an epoch does.
        """
        if self.form != "block":
            return [1.0] * len(unlabeled)
        size, factors = self.update_steps(accum_grad), []
        for first in range(0, len(unlabeled), size):
            kinds = unlabeled[first : first + size]
            factors += [size / kinds.count(kind) for kind in kinds]
        return factors

    def is_unlabeled(self, seed: int, first_turn: int, num_turns: int) -> list[bool]:
        """Tell the kind of consecutive turns: True if unlabeled, (num_turns,)."""
        kinds = []
        for turn in range(first_turn, first_turn + num_turns):
            block, position = divmod(turn - self.start_step, self.block_steps)
            kinds.append(block >= 0 and self._order(seed, block)[position])
        return kinds

    def _order(self, seed: int, block: int) -> list[bool]:
        """Return the order of a block, True if unlabeled, (block_steps,)."""
        if self.form == "block":
            # Always the same, so that any `block_steps` turns in a row hold as many of
            # each kind: an update does even if filling the cache has shifted the turns.
            return [False] * self.labeled_steps + [True] * self.unlabeled_steps
        return _block_order(self.labeled_steps, self.block_steps, seed, block)

    def unlabeled_before(self, seed: int, turn: int) -> int:
        """Count the unlabeled turns among the turns 0 .. turn - 1."""
        blocks, rest = divmod(max(turn - self.start_step, 0), self.block_steps)
        return blocks * self.unlabeled_steps + sum(self._order(seed, blocks)[:rest])

    def turn_of(self, seed: int, step: int, filling: int) -> int:
        """Find the first turn that belongs to a step: the one after that of step - 1.

        The first `filling` unlabeled turns only fill the cache, for the step after.
        """

        def steps_before(turn: int) -> int:
            return turn - min(filling, self.unlabeled_before(seed, turn))

        turns = range(step, step + filling + 1)
        return turns[bisect.bisect_left(turns, step, key=steps_before)]

    def unlabeled_weight(self, step: int) -> float:
        """Return the factor on the unlabeled loss at a step (lambda)."""
        if step < self.start_step:
            return 0.0
        weight = float(resolve(self.weight, step))
        if self.ramp_steps == 0:
            return weight
        return weight * min(1.0, (step - self.start_step + 1) / self.ramp_steps)


@functools.lru_cache(maxsize=2)
def _block_order(labeled: int, total: int, seed: int, block: int) -> list[bool]:
    kinds = np.arange(total) >= labeled
    return np.random.default_rng([seed, block]).permutation(kinds).tolist()


def is_ramp(value: Any) -> bool:
    """Tell whether a setting is a ramp: {from: 1.0, to: 0.1, steps: 1000, start: 0}."""
    return isinstance(value, Mapping) and {"from", "to"} <= set(value)


def ramp_value(ramp: Mapping[str, Any], step: int) -> float:
    """Compute a ramp's value: linear from `from` to `to`, constant before and after.

    It takes `steps` mini-batches, at least 1, and begins at step `start` (default 0).
    Between integers it is a `WholeEnds`. ValueError for a key or value not allowed.
    """
    if not {"steps"} <= set(ramp) <= {"from", "to", "steps", "start"}:
        raise ValueError(
            f"a scheduled value is {{from: ..., to: ..., steps: ...}} with an optional "
            f"start, got {dict(ramp)}"
        )
    steps, start = ranges.at_least("steps", ramp["steps"], 1), ramp.get("start", 0)
    done = min(max(step - ranges.at_least("start", start, 0), 0) / steps, 1.0)
    ends = ramp["from"], ramp["to"]
    for name, end in zip(("from", "to"), ends):
        ranges.finite(name, end)
    value = ends[0] + done * (ends[1] - ends[0])
    return (
        ranges.WholeEnds(value) if all(isinstance(end, int) for end in ends) else value
    )


def resolve(conf: Any, step: int) -> Any:
    """Replace every ramp in nested settings by its value at a step."""
    if is_ramp(conf):
        return ramp_value(conf, step)
    if isinstance(conf, Mapping):
        return {key: resolve(value, step) for key, value in conf.items()}
    if isinstance(conf, (list, tuple)):
        return [resolve(value, step) for value in conf]
    return conf


def nested(conf: Any) -> Iterator[Any]:
    """Yield settings, and all that is in them at any depth."""
    yield conf
    inner = conf.values() if isinstance(conf, Mapping) else conf
    for part in inner if isinstance(conf, (Mapping, list, tuple)) else ():
        yield from nested(part)


def _corners(conf: Any) -> set[int]:
    """Return the steps at which a ramp in nested settings begins or ends."""
    ramps = [part for part in nested(conf) if is_ramp(part)]
    starts = {(r.get("start", 0), r.get("steps", 0)) for r in ramps}
    return {step for start, steps in starts for step in (start, start + steps)}


def last_step(conf: Any) -> int:
    """Return the step from which nested settings no longer change; 0 without ramps."""
    return max(_corners(conf), default=0)


def _stages(conf: Any) -> list[int]:
    """Return steps that stand for all: step 0, corners, and one between any two.

    Between two corners all settings are linear. What is above zero, or on one side of
    another setting, somewhere between them is so in the middle or at an end.
    """
    corners = sorted({0} | _corners(conf))
    middles = {(one + two) // 2 for one, two in itertools.pairwise(corners)}
    return sorted(middles.union(corners))


class Scheduled(Generic[T]):
    """An object whose settings may hold ramps: it is built anew when they change.

    It is built for all stages of the ramps at once, so that a value that `build`
    refuses, or a ramp that is none, is refused before any work (ValueError).

    >>> Scheduled(SoftCE, {"temperature": {"from": 2.0, "to": 1.0, "steps": 9}}).at(9)
    """

    def __init__(self, build: Callable[..., T], conf: Mapping[str, Any]) -> None:
        self._build, self._conf = build, conf
        self._settings = resolve(conf, 0)
        self._object = build(**self._settings)
        self._is_fixed = last_step(conf) == 0
        later = (build(**resolve(conf, step)) for step in _stages(conf)[1:])
        self._stages = [self._object, *later]

    def ever(self, name: str) -> bool:
        """Tell whether an attribute of the object is true at any step of the run."""
        return any(getattr(stage, name) for stage in self._stages)

    def always(self, name: str) -> bool:
        """Tell whether an attribute of the object is true at all steps of the run."""
        return all(getattr(stage, name) for stage in self._stages)

    def at(self, step: int) -> T:
        """Return the object with the settings of a step, counted in mini-batches."""
        if not self._is_fixed:
            settings = resolve(self._conf, step)
            if settings != self._settings:
                state = self.state_dict()
                self._settings, self._object = settings, self._build(**settings)
                self.load_state_dict(state)
        return self._object

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the object, empty if it is not `Stateful`."""
        stateful = isinstance(self._object, Stateful)
        return self._object.state_dict() if stateful else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if state:
            self._object.load_state_dict(state)
