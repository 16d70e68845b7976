"""Which pseudo-labels to trust: each rule turns a label into a weight per utterance."""

from __future__ import annotations

from typing import Any

import torch

from espnet_softpl.criteria.base import PseudoLabel
from espnet_softpl.ranges import at_least
from espnet_softpl.registry import build_from_conf


class TokenCountFilter:
    """Leave out transcripts with too few tokens (`pl_filter: tokens`).

    An empty transcript teaches CTC to say blank at every frame, which makes more
    transcripts empty: by default they are left out, whatever the criterion.

    Args:
        min_tokens: Fewest tokens that are kept, at least 0; 0 keeps everything.

    Raises:
        ValueError: min_tokens is negative or not an integer.
    """

    def __init__(self, min_tokens: int = 1) -> None:
        self.min_tokens = at_least("min_tokens", min_tokens, 0)

    def __call__(self, label: PseudoLabel) -> torch.Tensor:
        """Weigh a batch of labels.

        Args:
            label: The labels of B utterances.

        Returns:
            (B,), the given weights, 0 where the rule drops the utterance.
        """
        keep = label.token_lengths >= self.min_tokens
        return label.weight * keep.to(label.weight.dtype)


def build(name: str, **conf: Any) -> TokenCountFilter:
    """Build a filter from `pl_filter` and `pl_filter_conf`.

    Args:
        name: `tokens`.
        **conf: The filter's keyword arguments.

    Returns:
        The filter.

    Raises:
        ValueError: Unknown name or setting, or a value out of its range.
    """
    if name != "tokens":
        raise ValueError(f"pl_filter: unknown filter {name!r}. Legal: tokens.")
    return build_from_conf(TokenCountFilter, conf, "pl_filter_conf")
