"""What a filter of pseudo-labels is, and how several are applied in order."""

import abc
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from espnet_softpl.core.registry import Registry, Stateful
from espnet_softpl.labels.pseudo_label import PseudoLabel

KEPT = -1


class Candidate(NamedTuple):
    """What a filter may look at: a batch of labels before the criterion sees them."""

    label: PseudoLabel  # After shaping.
    speech_lengths: Tensor  # In samples, (B,).
    labeled_tokens_per_sample: float  # Speech rate of labeled data, NaN if unknown.
    # Label the same audio again by the teacher with dropout on, a fresh draw each time.
    relabel: Callable[[], PseudoLabel]


class Filter(Stateful, abc.ABC):
    """A rule that gives each label of a batch a factor on its weight.

    Subclasses implement `__call__` and take their settings as keyword arguments; a
    value that is out of its range raises ValueError. They leave the candidate as it is,
    and what they compute has no gradient.
    """

    needs_rate: bool = False  # Whether `Candidate.labeled_tokens_per_sample` is used,
    needs_labeled: bool = False  # `observe` is to be called,
    needs_dropout: bool = False  # and `Candidate.relabel` is used.
    # Whether it takes so little that it is called even if nothing is left of a batch.
    is_cheap: bool = False
    # Whether lists and samples of transcripts that a criterion makes of a label that is
    # kept leave out the empty one.
    excludes_empty: bool = False

    @abc.abstractmethod
    def __call__(self, candidate: Candidate) -> Tensor:
        """Return the factor on each utterance's weight, (B,), in [0, 1] or bool."""

    def observe(
        self, log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
    ) -> None:
        """Look at a labeled batch; there is nothing to do unless a subclass says so.

        The model's frame log-posteriors (B, T, V), without gradient, with lengths (B,),
        and the true transcripts (B, U), padded with -1, with theirs.
        """


REGISTRY: Registry[Filter] = Registry("pl_filter", Filter)

register = REGISTRY.register
available = REGISTRY.available
build = REGISTRY.build


@torch.no_grad()
def apply(
    filters: Sequence[tuple[str, Filter]], candidate: Candidate
) -> tuple[Tensor, Tensor]:
    """Weigh a batch of labels by several filters, in order.

    Once nothing is left of a batch, the filters that remain are not called, except for
    cheap ones: the later ones are the expensive ones if the user orders them so.

    Args:
        filters: Names and filters.
        candidate: The batch.

    Returns:
        weight (B,), the label's own times all factors; and reason (B,), int64: the
        index of the first filter that left nothing of an utterance, -1 if it is
        kept, and the number of filters where the label's own weight was 0 before.

    Raises:
        ValueError: A filter's result has another shape than (B,).
    """
    weight = candidate.label.weight
    reason = torch.full_like(weight, KEPT, dtype=torch.int64)
    reason = reason.masked_fill(weight == 0, len(filters))
    for index, (name, judge) in enumerate(filters):
        remaining = reason == KEPT
        # To ask a GPU takes longer than a cheap filter does.
        if not judge.is_cheap and not bool(remaining.any()):
            break
        factor = judge(candidate)
        if factor.shape != weight.shape:
            raise ValueError(
                f"pl_filter: {name!r} returned a factor of shape "
                f"{tuple(factor.shape)} for a batch of {len(weight)}; want one value "
                f"per utterance"
            )
        # What is dropped stays dropped, even by a factor that is not a number.
        weight = torch.where(remaining, weight * factor.to(weight), weight)
        reason = torch.where(remaining & (weight == 0), index, reason)
    return weight, reason
