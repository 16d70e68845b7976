"""Which mini-batch is labeled, and what an unlabeled one weighs, step by step.

A step is one mini-batch of training, counted from 0 over all epochs (with
`accum_grad: 1`, one optimizer update). Nothing here keeps state: the answer for a
step depends on the seed and the step alone, so that a resumed run, a prefetching
loader and every process of a distributed run see the same schedule.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How labeled and unlabeled mini-batches alternate (`pl_schedule_conf`).

    From `start_step` on, training goes in blocks of `labeled_steps` labeled and
    `unlabeled_steps` unlabeled mini-batches, in an order drawn anew for each block
    (slimIPL's N_L : N_U, https://arxiv.org/abs/2010.11524).

    Attributes:
        start_step: Number of labeled steps before the first block (slimIPL's M); 0
            starts at once, as one does from a seed model.
        labeled_steps: Labeled mini-batches per block, at least 0.
        unlabeled_steps: Unlabeled mini-batches per block, at least 1.
        weight: Factor on the unlabeled loss (lambda), at least 0.
        ramp_steps: Steps over which the factor rises linearly from 0 to `weight`,
            counted from `start_step`; 0 for none.

    Raises:
        ValueError: A value out of its range.
    """

    start_step: int = 0
    labeled_steps: int = 1
    unlabeled_steps: int = 1
    weight: float = 1.0
    ramp_steps: int = 0

    def __post_init__(self) -> None:
        least = dict(start_step=0, labeled_steps=0, unlabeled_steps=1, ramp_steps=0)
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"{name} must be an integer >= {low}, got {value!r}")
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"weight must be a finite number >= 0: {self.weight!r}")

    @property
    def block_steps(self) -> int:
        """Mini-batches in one block."""
        return self.labeled_steps + self.unlabeled_steps

    def _block_order(self, seed: int, block: int) -> np.ndarray:
        """Return the order of one block, (block_steps,), True where unlabeled."""
        kinds = np.arange(self.block_steps) >= self.labeled_steps
        return np.random.default_rng([seed, block]).permutation(kinds)

    def is_unlabeled(self, seed: int, first_step: int, num_steps: int) -> list[bool]:
        """Tell the kind of consecutive steps.

        Args:
            seed: The run's seed.
            first_step: The first step asked for.
            num_steps: How many.

        Returns:
            One bool per step, True where the mini-batch is unlabeled.
        """
        kinds: list[bool] = []
        block, order = -1, np.empty(0, dtype=bool)
        for step in range(first_step, first_step + num_steps):
            if step < self.start_step:
                kinds.append(False)
                continue
            wanted, position = divmod(step - self.start_step, self.block_steps)
            if wanted != block:
                block, order = wanted, self._block_order(seed, wanted)
            kinds.append(bool(order[position]))
        return kinds

    def unlabeled_before(self, seed: int, step: int) -> int:
        """Count the unlabeled mini-batches among the steps 0 .. step - 1."""
        blocks, rest = divmod(max(step - self.start_step, 0), self.block_steps)
        begun = int(self._block_order(seed, blocks)[:rest].sum()) if rest else 0
        return blocks * self.unlabeled_steps + begun

    def unlabeled_weight(self, step: int) -> float:
        """Return the factor on the unlabeled loss at a step (lambda)."""
        if step < self.start_step:
            return 0.0
        if self.ramp_steps == 0:
            return self.weight
        return self.weight * min(1.0, (step - self.start_step + 1) / self.ramp_steps)
