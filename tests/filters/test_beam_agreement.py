"""Agreement of two decodings, against all alignments."""

import math

import pytest
import torch

from espnet_softpl import filters
from espnet_softpl.filters import Candidate
from tests.conftest import (
    all_paths,
    make_label,
    path_log_prob,
    reference_collapse,
    reference_edits,
)
from tests.filters.test_base import RATE, Relabel


@pytest.mark.parametrize("max_distance", [0.0, 0.5, 1.0])
def test_beam_agreement_against_all_alignments(max_distance) -> None:
    lengths = torch.tensor([4] * 30 + [3] * 15 + [1] * 5)
    log_probs = (0.5 * torch.randn(50, 4, 3, dtype=torch.float64)).log_softmax(-1)
    label = make_label(log_probs, lengths)
    # Not the label's own transcript but the posteriors are judged.
    label = label._replace(tokens=torch.full_like(label.tokens, 2))
    candidate = Candidate(label, 100 * lengths, RATE, Relabel([]))
    conf = {"beam_size": 64, "max_distance": max_distance}
    kept = filters.build("beam_agreement", **conf)(candidate)
    expected = []
    for row, length in zip(log_probs, lengths.tolist()):
        mass: dict[tuple[int, ...], float] = {}
        for path in all_paths(length, 3):
            transcript = reference_collapse(path)
            mass.setdefault(transcript, 0.0)
            mass[transcript] += math.exp(path_log_prob(row, path))
        best = list(max(mass, key=mass.get))
        plain = list(reference_collapse(tuple(row[:length].argmax(-1).tolist())))
        apart = reference_edits(plain, best) / max(1, len(plain))
        expected.append(apart <= max_distance)
    assert kept.tolist() == expected
    assert set(expected) == ({True, False} if max_distance < 1.0 else {True})
