"""One schedule over labeled and unlabeled mini-batches, on ESPnet's own loaders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory
from torch.utils.data import DataLoader

from espnet_softpl.schedule import Schedule

Batch = tuple[list[str], dict[str, torch.Tensor]]


def take_batches(
    batches: Sequence[Any], seed: int, first: int, count: int
) -> list[Any]:
    """Cut a window out of an endless, reshuffled sequence of mini-batches.

    Args:
        batches: The mini-batches of one pass over the data.
        seed: Pass k is shuffled with seed + k, as ESPnet does for epoch k.
        first: Position of the window in the endless sequence.
        count: Length of the window.

    Returns:
        `count` mini-batches; a function of the arguments alone.
    """
    taken: list[Any] = []
    while len(taken) < count:
        turn, offset = divmod(first + len(taken), len(batches))
        order = np.random.RandomState(seed + turn).permutation(len(batches))
        wanted = order[offset : offset + count - len(taken)]
        taken += [batches[i] for i in wanted]
    return taken


class MixedIterator:
    """The labeled and unlabeled mini-batches of one epoch, in the schedule's order.

    Every batch carries `pl_step`, (B,), its number in the whole training, and every
    unlabeled one `unlabeled_weight`, (B,), the schedule's factor.

    Args:
        labeled: Labeled mini-batches, as many as `kinds` asks for.
        unlabeled: Unlabeled mini-batches, as many as `kinds` asks for.
        first_step: Number of the epoch's first mini-batch, counted from 0.
        kinds: True where a step is unlabeled.
        weights: Factor on the unlabeled loss at each step.
    """

    def __init__(
        self,
        labeled: DataLoader,
        unlabeled: DataLoader,
        first_step: int,
        kinds: Sequence[bool],
        weights: Sequence[float],
    ) -> None:
        self._labeled = labeled
        self._unlabeled = unlabeled
        self._first_step = first_step
        self._kinds = kinds
        self._weights = weights

    def __len__(self) -> int:
        """Return the number of mini-batches in the epoch."""
        return len(self._kinds)

    def __iter__(self) -> Iterator[Batch]:
        """Yield (utterance ids, tensors by name)."""
        labeled, unlabeled = iter(self._labeled), iter(self._unlabeled)
        for number, (is_unlabeled, weight) in enumerate(
            zip(self._kinds, self._weights)
        ):
            ids, batch = next(unlabeled if is_unlabeled else labeled)
            batch["pl_step"] = torch.full((len(ids),), self._first_step + number)
            if is_unlabeled:
                batch["unlabeled_weight"] = torch.full((len(ids),), weight)
            yield ids, batch


class MixedIterFactory(AbsIterFactory):
    """Builds the mini-batches of an epoch from two of ESPnet's iterator factories.

    Args:
        labeled: Factory of the labeled data; its batches and loader are used.
        unlabeled: Factory of the unlabeled data.
        schedule: Which step is of which kind.
        seed: Of the schedule and of the shuffling.
        num_iters_per_epoch: Mini-batches of both kinds per epoch; None for as many as
            one pass over the labeled data takes (over the unlabeled data, where the
            schedule has no labeled steps).
    """

    def __init__(
        self,
        labeled: SequenceIterFactory,
        unlabeled: SequenceIterFactory,
        schedule: Schedule,
        seed: int,
        num_iters_per_epoch: int | None = None,
    ) -> None:
        self._factories = (labeled, unlabeled)
        self._batches = tuple(f.sampler.generate(seed) for f in self._factories)
        self._schedule = schedule
        self._seed = seed
        if num_iters_per_epoch is None:
            of_one, per_block = (
                (len(self._batches[0]), schedule.labeled_steps)
                if schedule.labeled_steps
                else (len(self._batches[1]), schedule.unlabeled_steps)
            )
            num_iters_per_epoch = -(-of_one * schedule.block_steps // per_block)
        self.num_iters_per_epoch = num_iters_per_epoch

    def build_iter(self, epoch: int, shuffle: bool | None = None) -> MixedIterator:
        """Build the iterator of one epoch.

        Args:
            epoch: Counted from 1.
            shuffle: Not used: training data are always shuffled, by seed and pass.

        Returns:
            The epoch's mini-batches, a function of the seed and the epoch.
        """
        first = (epoch - 1) * self.num_iters_per_epoch
        steps = range(first, first + self.num_iters_per_epoch)
        kinds = self._schedule.is_unlabeled(self._seed, first, len(steps))
        begun = self._schedule.unlabeled_before(self._seed, first)
        counts = (len(kinds) - sum(kinds), sum(kinds))
        loaders = [
            self._loader(which, start, count, epoch)
            for which, (start, count) in enumerate(zip((first - begun, begun), counts))
        ]
        weights = [self._schedule.unlabeled_weight(step) for step in steps]
        return MixedIterator(*loaders, first, kinds, weights)

    def _loader(self, which: int, start: int, count: int, epoch: int) -> DataLoader:
        """Build ESPnet's loader for a window of one kind of mini-batches."""
        factory = self._factories[which]
        # The two kinds draw from different random streams, in their order and in the
        # augmentation of their loader processes.
        seed = self._seed + 1_000_003 * which
        return SequenceIterFactory(
            dataset=factory.dataset,
            batches=take_batches(self._batches[which], seed, start, count),
            seed=seed,
            num_workers=factory.num_workers,
            collate_fn=factory.collate_fn,
            pin_memory=factory.pin_memory,
        ).build_iter(epoch)
