"""The settings of a label cache, and their names in YAML."""

from __future__ import annotations

import abc
import dataclasses

from espnet_softpl.cache.compression import Compression
from espnet_softpl.cache.plan import CachePlan
from espnet_softpl.core.ranges import at_least, fraction, not_negative
from espnet_softpl.core.registry import Registry


@dataclasses.dataclass(frozen=True)
class CacheSettings(abc.ABC):
    """What every cache has (`pl_cache_conf`).

    Attributes:
        size: C, slots of one unlabeled mini-batch each, at least 1, or `all` for as
            many as one pass over the unlabeled data has.
        top_k: Tokens whose posteriors are kept per frame, at least 1; None for all.
            They are kept only if a criterion or a regularizer needs them.
        precision: `float32`, `float16` or `uint8`, of the posteriors that are kept.
        min_p: Tokens whose probability is below this share of their frame's best one
            are not kept, in [0, 1]; 0.1 / V changes the loss by 1 %. None keeps `top_k`
            of every frame.
        memory_limit_mb: No effect. Labels are in files in the experiment directory, and
            the system keeps those in memory if it has room.
    """

    size: int | str = 100
    top_k: int | None = 32
    precision: str = "uint8"
    min_p: float | None = None
    memory_limit_mb: float | None = None

    def __post_init__(self) -> None:
        if self.size != "all":
            at_least("size, unless it is 'all',", self.size, 1)
        if self.memory_limit_mb is not None:
            not_negative("memory_limit_mb", self.memory_limit_mb)
        self.compression()

    def compression(self) -> Compression:
        """Return how posteriors are kept."""
        return Compression(self.top_k, self.precision, self.min_p)

    @abc.abstractmethod
    def plan(self, num_batches: int, seed: int) -> CachePlan:
        """Return which slot is visited when; a pass has `num_batches` mini-batches."""

    def slots(self, num_batches: int) -> int:
        """Return the number of slots."""
        return num_batches if self.size == "all" else int(self.size)


REGISTRY: Registry[CacheSettings] = Registry("pl_cache", CacheSettings, optional=True)


@REGISTRY.register("slimipl")
@dataclasses.dataclass(frozen=True)
class SlimIPL(CacheSettings):
    """Replace labels with a constant probability (`pl_cache: slimipl`).

    At each visit of a slot, with probability p, the next unlabeled mini-batch is
    labeled and takes it. Labels are used 1/p times and replaced after C/p unlabeled
    updates, on average.

    Use: with `pl_teacher: student`, or if labeling takes too long.

    Source: slimIPL (Likhomanenko et al. 2020, https://arxiv.org/abs/2010.11524).

    Known failure: in a run not much longer than C/p updates most labels are those of
    the base model, and N unlabeled updates hear only C + p N mini-batches.

    Attributes:
        probability: p, in [0, 1]; 0 keeps the first labels forever.
        in_place: Replace the labels of a slot with new ones of the same mini-batch, not
            with those of the next one. With size `all`, each pass labels a share p of
            the unlabeled data again, as TopIPL does (https://arxiv.org/abs/2506.07659).
        measure_change: Label a mini-batch once more when its labels are replaced, for
            the statistic `pl_label_change`; costs a teacher forward each time, and
            nothing with `in_place`.
    """

    probability: float = 0.1
    in_place: bool = False
    measure_change: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction("probability", self.probability)

    def plan(self, num_batches: int, seed: int) -> CachePlan:
        """See `CacheSettings.plan`."""
        return CachePlan(self.slots(num_batches), seed, self.probability, self.in_place)


@REGISTRY.register("label_change")
@dataclasses.dataclass(frozen=True)
class LabelChange(CacheSettings):
    """Replace labels as they change (`pl_cache: label_change`).

    At each visit the mini-batch is labeled again. The probability that its slot gets
    another one is the token edit distance between old and new transcripts, per token of
    the old, at most 1.

    Use: if nobody knows p; early labels change much and go, late ones stay.

    Source: our reading of the abstract of "Continuous Pseudo-Labeling from the Start"
    (https://arxiv.org/abs/2210.08711).

    Known failure: labels that are always empty do not change, so they stay. It costs as
    much as no cache, or more.

    Attributes:
        refresh: Whether a mini-batch that stays takes the new labels.
        lag: Unlabeled updates between the decision and the replacement, at least
            2 * num_workers + 1: what the loader may have read ahead.
    """

    refresh: bool = True
    lag: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("lag", self.lag, 1)

    def plan(self, num_batches: int, seed: int) -> CachePlan:
        """See `CacheSettings.plan`."""
        return CachePlan(self.slots(num_batches), seed, None, lag=self.lag)
