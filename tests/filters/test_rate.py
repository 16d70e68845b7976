"""The speech rate."""

import math

import torch

from espnet_softpl import filters
from espnet_softpl.filters import Candidate
from tests.filters.test_base import make_candidate


def test_rate_by_hand() -> None:
    candidate = make_candidate(lengths=torch.full((5,), 5))
    label = candidate.label._replace(token_lengths=torch.tensor([0, 10, 10, 10, 3]))
    samples = torch.tensor([16000, 16000, 8000, 4000, 2400])
    # Against 20 tokens in 16000 samples: 0, 1/2, 1, 2 and 1.
    candidate = Candidate(label, samples, 20 / 16000, candidate.relabel)
    for conf, kept in [
        ({"min_ratio": 0.5}, [0, 1, 1, 1, 1]),
        ({"max_ratio": 1.5}, [1, 1, 1, 0, 1]),
        ({"min_ratio": 0.75, "max_ratio": 2}, [0, 0, 1, 1, 1]),
    ]:
        judge = filters.build("rate", **conf)
        assert judge(candidate).tolist() == kept
        unknown = candidate._replace(labeled_tokens_per_sample=math.nan)
        assert judge(unknown).tolist() == [1] * 5
