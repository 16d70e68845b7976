"""Cross-entropy to the best alignment of a transcript that is not the greedy one."""

import pytest
import torch

from espnet_softpl import criteria
from tests.conftest import all_paths, path_log_prob, reference_collapse
from tests.criteria.test_base import tiny


@pytest.mark.parametrize("transcript", [(1,), (2, 1), (1, 1), (2, 1, 2)])
def test_the_target_is_the_best_of_all_alignments(transcript: tuple[int, ...]) -> None:
    student, label = tiny(frames=5)
    label = label._replace(
        tokens=torch.tensor([transcript]), token_lengths=torch.tensor([len(transcript)])
    )
    paths = [p for p in all_paths(5, 3) if reference_collapse(p) == transcript]
    best = max(paths, key=lambda path: path_log_prob(label.log_probs[0], path))
    loss = criteria.build("viterbi_ce")(student, label.lengths, label)
    torch.testing.assert_close(loss[0], -path_log_prob(student[0], best))


def test_a_transcript_without_an_alignment_costs_nothing() -> None:
    student, label = tiny(frames=2)
    student.requires_grad_(True)
    label = label._replace(
        tokens=torch.tensor([[1, 1]]), token_lengths=torch.tensor([2])
    )
    loss = criteria.build("viterbi_ce")(student, label.lengths, label)
    loss.sum().backward()
    assert loss.tolist() == [0.0] and (student.grad == 0).all()
