"""Transcripts that have an alignment, by enumeration."""

import itertools

import pytest
import torch

from espnet_softpl import filters
from espnet_softpl.filters import Candidate
from espnet_softpl.labels.pseudo_label import PseudoLabel
from tests.conftest import all_paths, make_log_probs, reference_collapse
from tests.filters.test_base import RATE, B, Relabel, make_candidate


@pytest.mark.parametrize("slack", [0, 1, 2])
def test_feasible_is_what_alignments_say(slack) -> None:
    transcripts = [t for n in range(5) for t in itertools.product((1, 2), repeat=n)]
    tokens = torch.tensor([[*t, *[2] * (4 - len(t))] for t in transcripts])
    counts = torch.tensor([len(t) for t in transcripts])
    for frames in range(1, 6):
        # With `slack` frames less, there is still an alignment.
        paths = all_paths(max(frames - slack, 0), 3) if frames >= slack else []
        possible = {reference_collapse(path) for path in paths}
        lengths = torch.full_like(counts, frames)
        log_probs = make_log_probs(len(counts), 5, 3)
        weight = torch.ones(len(counts))
        label = PseudoLabel(log_probs, lengths, tokens, counts, weight)
        candidate = Candidate(label, 100 * lengths, RATE, Relabel([]))
        kept = filters.build("feasible", slack=slack)(candidate)
        assert kept.tolist() == [t in possible for t in transcripts]


def test_greedy_transcripts_are_feasible() -> None:
    assert filters.build("feasible")(make_candidate()).tolist() == [1] * B
