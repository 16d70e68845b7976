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


def test_a_network_of_one_is_the_list_of_one() -> None:
    student, label = tiny()
    one, two = (
        criteria.build("occupancy_ce", nbest=1, network=network)(
            student, label.lengths, label
        )
        for network in (False, True)
    )
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_a_network_by_enumeration() -> None:
    """Alternatives of the bins combine; each alignment weighs W(y) P_T."""
    student, label = tiny()
    lists = torch.tensor([[[1, 2], [2, 2], [1, 1]]])
    label = label._replace(
        list_tokens=lists,
        list_lengths=torch.tensor([[2, 2, 2]]),
        list_scores=torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log(),
    )
    bins = [{1: 0.7, 2: 0.3}, {2: 0.8, 1: 0.2}]
    teacher, total, expected = label.log_probs[0], 0.0, 0.0
    for path in all_paths(4, 3):
        y = reference_collapse(path)
        if len(y) == 2:
            share = bins[0][y[0]] * bins[1][y[1]] * path_log_prob(teacher, path).exp()
            total = total + share
            expected = expected - share * path_log_prob(student[0], path)
    part = criteria.build("occupancy_ce", nbest=3, network=True)
    loss = part(student, label.lengths, label)
    torch.testing.assert_close(loss[0], expected / total, rtol=1e-10, atol=1e-10)
    student.requires_grad_(True)
    assert torch.autograd.gradcheck(
        lambda z: part(z.log_softmax(-1), label.lengths, label), (student,)
    )


def test_a_network_moves_a_student_that_is_the_teacher() -> None:
    _, label = tiny(frames=5)
    logits = label.log_probs.clone().requires_grad_(True)
    losses = {}
    for name, conf in (("soft_ce", {}), ("occupancy_ce", dict(nbest=4, network=True))):
        part = criteria.build(name, **conf)
        loss = part(logits.log_softmax(-1), label.lengths, label).sum()
        losses[name] = torch.autograd.grad(loss, logits)[0].abs().max()
    assert losses["soft_ce"] < 1e-12 < 0.01 < losses["occupancy_ce"]
