"""Agreement with a teacher with dropout, draw by draw."""

import pytest
import torch

from espnet_softpl import filters
from espnet_softpl.filters import Candidate
from tests.conftest import make_label, reference_edits
from tests.filters.test_base import RATE, Relabel, make_candidate, words


@pytest.mark.parametrize("samples", [1, 2, 3])
@pytest.mark.parametrize("max_distance", [0.0, 0.5, 1.0])
def test_dropout_agreement_draw_by_draw(samples, max_distance) -> None:
    candidate = make_candidate(lengths=torch.tensor([6, 5, 5, 4, 4, 3, 3, 2, 1]))
    conf = {"samples": samples, "max_distance": max_distance}
    kept = filters.build("dropout_agreement", **conf)(candidate)
    assert candidate.relabel.calls == samples
    expected = []
    for b, transcript in enumerate(words(candidate.label)):
        noisy = [words(label)[b] for label in candidate.relabel.labels[:samples]]
        worst = max(reference_edits(transcript, other) for other in noisy)
        expected.append(worst / max(1, len(transcript)) <= max_distance)
    assert kept.tolist() == expected


def test_dropout_agreement_at_the_limit_and_of_empty_labels() -> None:
    path = torch.tensor([[1, 2, 3, 4, 1, 2, 3, 4, 1, 2], [0] * 10, [0] * 10])
    changed = path.clone()
    changed[0, :3] = 4  # Two tokens less, one changed: 3 edits of 10.
    changed[1, 4] = 1
    labels = [
        make_label(
            torch.nn.functional.one_hot(x, 5).float().log(), torch.full((3,), 10)
        )
        for x in (path, changed)
    ]
    candidate = Candidate(labels[0], torch.full((3,), 1000), RATE, Relabel(labels[1:]))
    for limit, kept in [(0.3, [1, 0, 1]), (0.29, [0, 0, 1]), (1.0, [1, 1, 1])]:
        judge = filters.build("dropout_agreement", samples=1, max_distance=limit)
        assert judge(candidate).tolist() == kept
        doubled = labels[0]._replace(weight=labels[0].weight.double())
        assert judge(candidate._replace(label=doubled)).tolist() == kept
