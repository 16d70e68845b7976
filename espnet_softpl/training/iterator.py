"""One schedule over labeled and unlabeled mini-batches, on ESPnet's own loaders."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.iterators.sequence_iter_factory import (
    SequenceIterFactory,
    worker_init_fn,
)
from torch.utils.data import DataLoader, Dataset

from espnet_softpl.cache.plan import CachePlan, Load
from espnet_softpl.data.usable_audio import UsableShare
from espnet_softpl.training.labeling import UnlabeledBatch
from espnet_softpl.training.schedule import Schedule

Batch = tuple[list[str], dict[str, Any]]
logger = logging.getLogger(__name__)


class EndlessBatches:
    """An endless sequence of mini-batches: passes over them, each in another order.

    Pass k is shuffled with seed + k, as ESPnet does for epoch k. Of several shards, of
    2 and 3 mini-batches, say, it reads one after the other: 3 2 4 | 1 0.
    """

    def __init__(
        self, batches: Sequence[Any], seed: int, shards: Sequence[int] = ()
    ) -> None:
        self._batches = batches
        self._seed = seed
        self._shards = shards
        # A cache goes back and forth between a few passes.
        self._order = functools.lru_cache(maxsize=16)(self._order)

    def _order(self, turn: int) -> np.ndarray:
        draw = np.random.RandomState(self._seed + turn)
        if len(self._shards) < 2:
            return draw.permutation(len(self._batches))
        begins = np.cumsum([0, *self._shards])
        order = draw.permutation(len(self._shards))
        return np.concatenate(
            [begins[k] + draw.permutation(self._shards[k]) for k in order]
        )

    def __getitem__(self, number: int) -> Any:
        """Return a mini-batch; a function of the arguments alone."""
        turn, position = divmod(number, len(self._batches))
        return self._batches[self._order(turn)[position]]


@dataclasses.dataclass
class MixedIterator:
    """The labeled and unlabeled mini-batches of one epoch, in the schedule's order.

    Every batch has `pl_step`, its number in the whole training, and `pl_factor`, which
    its loss is multiplied by. A labeled one has the loader's tensors, an unlabeled one
    has `unlabeled`, an `UnlabeledBatch`. Any batch may have `insertions`, a list of
    `UnlabeledBatch` to label for the cache.
    """

    loaders: tuple[DataLoader, DataLoader]  # Labeled; unlabeled, a batch a load.
    loads: Iterator[list[Load]]  # What each unlabeled turn reads, from the first on.
    first_step: int  # Number of the epoch's first mini-batch, counted from 0.
    first_draw: int  # Number of its first unlabeled turn, counted from 0.
    kinds: Sequence[bool]  # True if a turn is unlabeled.
    weights: Sequence[float]  # Factor on the unlabeled loss at each step.
    factors: Sequence[float]  # Factor on any loss at each step; see `Schedule.factors`.
    usable_share: UsableShare | None = None  # Counts audio that cannot be used.

    def __len__(self) -> int:
        """Return the number of mini-batches that are trained on in the epoch."""
        return len(self.weights)

    def __iter__(self) -> Iterator[Batch]:
        """Yield utterance ids and the model's keyword arguments."""
        labeled, unlabeled = map(iter, self.loaders)
        insertions: list[UnlabeledBatch] = []
        done, draw = 0, self.first_draw
        for is_unlabeled in self.kinds:
            if is_unlabeled:
                # The loader's sampler has named these loads already, in this order.
                loads = next(self.loads)
                batches = [self._read(unlabeled, load, draw) for load in loads]
                insertions += [b for b, load in zip(batches, loads) if load.insert]
                draw += 1
                if loads[-1].insert:  # The turn only fills the cache.
                    continue
                trained = batches[-1]._replace(weight=self.weights[done])
                ids, fields = trained.utt_id, {"unlabeled": trained}
            else:
                ids, fields = next(labeled)
            fields["pl_step"] = self.first_step + done
            fields["pl_factor"] = self.factors[done]
            if insertions:
                fields["insertions"], insertions = insertions, []
            yield ids, fields
            done += 1

    def _read(
        self, unlabeled: Iterator[Batch], load: Load, draw: int
    ) -> UnlabeledBatch:
        """Read a mini-batch of an unlabeled turn."""
        ids, fields = next(unlabeled)
        usable = fields.get("usable")
        if usable is not None:
            usable = usable.reshape(-1) > 0
            if self.usable_share is not None:
                self.usable_share.count(ids, usable)
        return UnlabeledBatch(
            ids,
            fields["speech"],
            fields["speech_lengths"],
            usable=usable,
            slot=load.slot,
            draw=draw,
            augmented=fields.get("speech_aug"),
        )


class MixedIterFactory(AbsIterFactory):
    """Builds the mini-batches of an epoch, labeled and unlabeled ones.

    ESPnet's factory has the labeled data set, how both are loaded, and its own batches;
    `batches` are those of the unlabeled `dataset`, of which `make_plan` makes the label
    cache's plan. `num_iters_per_epoch` counts both kinds, and is by default what one
    pass over the labeled data takes (over the unlabeled data, if the schedule has no
    labeled steps). In the block form it is rounded up to whole updates: ESPnet forgets
    what is left of one at an epoch's end.
    """

    def __init__(
        self,
        labeled: SequenceIterFactory,
        dataset: Dataset,
        batches: Sequence[Any],
        schedule: Schedule,
        seed: int,
        num_iters_per_epoch: int | None = None,
        make_plan: Callable[[int], CachePlan] | None = None,
        usable_share: UsableShare | None = None,
        accum_grad: int = 1,
    ) -> None:
        self._labeled, self._datasets = labeled, (labeled.dataset, dataset)
        # The two kinds draw from different random streams, in their order and in the
        # augmentation of their loader processes.
        self._seeds = (seed, seed + 1_000_003)
        self.unlabeled_pass = len(batches)  # In mini-batches.
        both = (labeled.sampler.generate(seed), batches)
        shards = (), getattr(batches, "shards", ())
        self._batches = tuple(map(EndlessBatches, both, self._seeds, shards))
        self._schedule = schedule
        self._usable_share = usable_share
        self.plan = None if make_plan is None else make_plan(len(batches))
        # Set by the trainer: whether the visit at a draw evicted the mini-batch.
        self.evicted: Callable[[int], bool] | None = None
        if num_iters_per_epoch is None:
            num_batches, per_block = len(both[0]), schedule.labeled_steps
            if per_block == 0:
                num_batches, per_block = len(batches), schedule.unlabeled_steps
            num_iters_per_epoch = -(-num_batches * schedule.block_steps // per_block)
        self._accum_grad = accum_grad
        self.update_steps = schedule.update_steps(accum_grad)
        self.num_iters_per_epoch = num_iters_per_epoch
        if schedule.form == "block":
            self.num_iters_per_epoch += -num_iters_per_epoch % self.update_steps
        if self.num_iters_per_epoch != num_iters_per_epoch:
            logger.info(
                "An epoch has %d mini-batches instead of %d, for an update takes %d",
                self.num_iters_per_epoch,
                num_iters_per_epoch,
                self.update_steps,
            )

    def build_iter(self, epoch: int, shuffle: bool | None = None) -> MixedIterator:
        """Build the iterator of one epoch, counted from 1; it is always shuffled.

        It is a function of seed and epoch (and of a deciding cache's decisions).
        """
        schedule, seed = self._schedule, self._seeds[0]
        filling = 0 if self.plan is None else self.plan.size
        first = (epoch - 1) * self.num_iters_per_epoch
        steps = range(first, first + self.num_iters_per_epoch)
        turn = schedule.turn_of(seed, first, filling)
        turns = schedule.turn_of(seed, steps.stop, filling) - turn
        kinds = schedule.is_unlabeled(seed, turn, turns)
        draw = schedule.unlabeled_before(seed, turn)
        if self.plan is not None:
            loads = self.plan.draws(draw, self.evicted)
        else:
            loads = ([Load(number, None, False)] for number in itertools.count(draw))
        # The first unlabeled turns only fill the cache, and are no steps.
        fills = filling - min(filling, draw)
        of_steps = [
            kind
            for kind, n in zip(kinds, itertools.accumulate(kinds))
            if not kind or n > fills
        ]
        # One stream, read twice: ahead by the loader's sampler, and by the iterator.
        ahead, loads = itertools.tee(itertools.islice(loads, sum(kinds)))
        labeled = range(turn - draw, turn - draw + turns - sum(kinds))
        unlabeled = (load.number for turn_loads in ahead for load in turn_loads)
        return MixedIterator(
            (self._loader(0, labeled, epoch), self._loader(1, unlabeled, epoch)),
            loads,
            first_step=first,
            first_draw=draw,
            kinds=kinds,
            weights=[schedule.unlabeled_weight(step) for step in steps],
            factors=schedule.factors(of_steps, self._accum_grad),
            usable_share=self._usable_share,
        )

    def _loader(self, which: int, numbers: Iterable[int], epoch: int) -> DataLoader:
        """Build a loader, as ESPnet does, for some mini-batches of one kind."""
        batches, seed = self._batches[which], epoch + self._seeds[which]
        return DataLoader(
            self._datasets[which],
            # Drawn one by one as the loader asks: how many depends on the cache.
            batch_sampler=(batches[number] for number in numbers),
            num_workers=self._labeled.num_workers,
            collate_fn=self._labeled.collate_fn,
            pin_memory=self._labeled.pin_memory,
            worker_init_fn=functools.partial(worker_init_fn, base_seed=seed),
        )
