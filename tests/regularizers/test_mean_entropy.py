"""Entropy of the mean posterior: its least and greatest values."""

import math

import torch

from espnet_softpl.regularizers.mean_entropy import negative_entropy


def test_negative_entropy_is_least_where_all_tokens_are_used_alike() -> None:
    uniform = torch.full((5,), 0.2)
    one_hot = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])
    torch.testing.assert_close(negative_entropy(uniform).item(), -math.log(5))
    assert negative_entropy(one_hot) == 0.0
