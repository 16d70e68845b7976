"""What a filter of pseudo-labels is, and how several are applied in order."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from espnet_softpl.core.registry import Registry
from espnet_softpl.core.stateful import Stateful
from espnet_softpl.labels.pseudo_label import PseudoLabel

KEPT = -1


class Candidate(NamedTuple):
    """What a filter may look at: a batch of labels before the criterion sees them.

    Attributes:
        label: The labels of B utterances, after shaping.
        speech_lengths: Length of the audio, (B,), in samples.
        labeled_tokens_per_sample: Speech rate of the labeled data, NaN if unknown.
        relabel: Labels the same audio again by the teacher with dropout on, without
            gradient; a fresh draw at each call.
    """

    label: PseudoLabel
    speech_lengths: Tensor
    labeled_tokens_per_sample: float
    relabel: Callable[[], PseudoLabel]


class Filter(Stateful, abc.ABC):
    """A rule that gives each label of a batch a factor on its weight.

    Subclasses implement `__call__` and take their settings as keyword arguments. They
    leave the candidate as it is, and what they compute has no gradient.

    Attributes:
        needs_rate: True if `Candidate.labeled_tokens_per_sample` is used.
        needs_labeled: True if `observe` is to be called.
        needs_dropout: True if `Candidate.relabel` is used.
    """

    needs_rate: bool = False
    needs_labeled: bool = False
    needs_dropout: bool = False

    @abc.abstractmethod
    def __call__(self, candidate: Candidate) -> Tensor:
        """Judge a batch of labels.

        Args:
            candidate: The labels of B utterances, and what they were made of.

        Returns:
            (B,), in [0, 1] (or bool): the factor on the weight of each utterance; 0
            drops it.
        """

    def observe(
        self, log_probs: Tensor, lengths: Tensor, tokens: Tensor, token_lengths: Tensor
    ) -> None:
        """Look at a labeled batch; there is nothing to do unless a subclass says so.

        Args:
            log_probs: The model's frame log-posteriors, (B, T, V), without gradient.
            lengths: Frames per utterance, (B,).
            tokens: The true transcripts, (B, U), padded with -1.
            token_lengths: Tokens per utterance, (B,).
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

    Once nothing is left of a batch, the filters that remain are not called: the later
    ones are the expensive ones if the user orders them so.

    Args:
        filters: Names and filters.
        candidate: The labels of B utterances, and what they were made of.

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
        if not bool(remaining.any()):
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
