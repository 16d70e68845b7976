"""The teacher's transcripts, and their weights."""

import math

import pytest
import torch

from espnet_softpl import criteria
from tests.conftest import transcript_log_probs
from tests.criteria.test_base import student_and_label, tiny


def test_one_transcript_is_the_labels_own() -> None:
    _, label = student_and_label()
    changed = label._replace(tokens=torch.full_like(label.tokens, 3))
    tokens, token_lengths, weights = criteria.NBestCTC(1).transcripts(changed)
    assert torch.equal(tokens[:, 0], changed.tokens)
    assert torch.equal(token_lengths[:, 0], label.token_lengths)
    assert weights.tolist() == [[1.0]] * len(tokens)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_list_has_the_best_transcripts_with_their_shares(temperature: float) -> None:
    _, label = tiny()
    softened = (label.log_probs[0] / temperature).log_softmax(-1)
    best = sorted(transcript_log_probs(softened).items(), key=lambda item: -item[1])[:3]
    criterion = criteria.NBestCTC(3, 40, temperature)
    tokens, token_lengths, weights = criterion.transcripts(label)
    spelled = [
        tuple(row[:length])
        for row, length in zip(tokens[0].tolist(), token_lengths[0].tolist())
    ]
    assert spelled == [transcript for transcript, _ in best]
    shares = torch.stack([score for _, score in best]).softmax(0)
    torch.testing.assert_close(weights[0], shares)


def test_a_teacher_that_says_nan_leaves_its_first_transcript() -> None:
    _, label = tiny()
    broken = label._replace(log_probs=torch.full_like(label.log_probs, math.nan))
    _, _, weights = criteria.NBestCTC(3).transcripts(broken)
    assert weights.tolist() == [[1.0, 0.0, 0.0]]


def test_what_the_settings_say() -> None:
    assert not criteria.build("nbest_ctc", nbest=1).needs_posteriors
    many = criteria.build("nbest_ctc", nbest=5)
    assert many.needs_posteriors and many.beam_size == 10
