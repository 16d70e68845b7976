"""Cross-entropy to occupancies, by enumeration."""

import pytest
import torch

from espnet_softpl import criteria
from tests.conftest import (
    all_paths,
    path_log_prob,
    reference_collapse,
    transcript_log_probs,
)
from tests.criteria.test_base import tiny


@pytest.mark.parametrize("number", [1, 2, 5])
def test_occupancy_ce_weighs_all_alignments_of_its_transcripts(number) -> None:
    student, label = tiny()
    teacher = label.log_probs[0]
    likely = sorted(transcript_log_probs(teacher).items(), key=lambda item: -item[1])
    chosen = dict(likely[:number])
    if number == 1:
        chosen = {tuple(label.tokens[0].tolist()): torch.zeros((), dtype=torch.double)}
    total = torch.stack(list(chosen.values())).exp().sum()
    expected = 0.0
    for transcript, score in chosen.items():
        paths = [p for p in all_paths(4, 3) if reference_collapse(p) == transcript]
        weights = torch.stack([path_log_prob(teacher, p) for p in paths]).softmax(0)
        costs = torch.stack([-path_log_prob(student[0], p) for p in paths])
        expected = expected + score.exp() / total * (weights * costs).sum()
    loss = criteria.build("occupancy_ce", nbest=number, beam_size=50)(
        student, label.lengths, label
    )
    torch.testing.assert_close(loss[0], expected, rtol=1e-6, atol=1e-6)


def test_occupancy_ce_of_all_transcripts_is_soft_ce() -> None:
    student, label = tiny()
    criterion = criteria.build("occupancy_ce", nbest=40, beam_size=80)
    torch.testing.assert_close(
        criterion(student, label.lengths, label),
        criteria.soft_ce(student, label.lengths, label.log_probs),
        rtol=1e-6,
        atol=1e-6,
    )
