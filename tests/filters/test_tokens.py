"""The number of tokens."""

import pytest
import torch

from espnet_softpl import filters
from tests.filters.test_base import make_candidate


def test_tokens_by_hand() -> None:
    candidate = make_candidate(lengths=torch.full((4,), 5))
    label = candidate.label._replace(token_lengths=torch.tensor([0, 1, 2, 3]))
    candidate = candidate._replace(label=label)
    for conf, kept in [
        ({}, [0, 1, 1, 1]),
        ({"min_tokens": 2}, [0, 0, 1, 1]),
        ({"min_tokens": 0}, [1, 1, 1, 1]),
        ({"min_tokens": 0, "max_tokens": 0}, [1, 0, 0, 0]),
        ({"max_tokens": 2}, [0, 1, 1, 0]),
    ]:
        assert filters.build("tokens", **conf)(candidate).tolist() == kept


def test_alternatives_may_be_empty_only_where_a_label_may_be() -> None:
    for conf, excluded in [
        ({}, True),
        ({"min_tokens": 0}, False),
        ({"alternatives": False}, False),
    ]:
        assert filters.build("tokens", **conf).excludes_empty is excluded
    with pytest.raises(ValueError, match="alternatives must be true or false"):
        filters.build("tokens", alternatives="no")
