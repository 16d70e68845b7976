"""The teacher's transcripts, and their weights."""

import math

import pytest
import torch

from espnet_softpl import criteria
from espnet_softpl.labels.pseudo_label import PseudoLabel
from tests.conftest import make_label, transcript_log_probs
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


def nearly_silent() -> tuple[torch.Tensor, PseudoLabel]:
    """Draw a student, and a teacher whose second-best transcript is empty."""
    student, label = tiny()
    frames = torch.full_like(label.log_probs, 0.05)
    frames[..., 0] = 0.9
    frames[0, 1] = torch.tensor([0.3, 0.6, 0.1])
    label = make_label(frames.log(), label.lengths)
    assert label.token_lengths.tolist() == [1]
    return student, label


@pytest.mark.parametrize("number", [2, 3, 20])
def test_the_empty_transcript_is_left_out_if_the_label_says_so(number) -> None:
    _, label = nearly_silent()
    shares = transcript_log_probs(label.log_probs[0])
    best = sorted(shares, key=lambda transcript: -shares[transcript])[:number]
    criterion = criteria.NBestCTC(number, 60)
    for excluded in (False, True):
        asked = label._replace(excludes_empty=excluded)
        tokens, token_lengths, weights = criterion.transcripts(asked)
        rows = zip(tokens[0].tolist(), token_lengths[0].tolist())
        spelled = [tuple(row[:length]) for row, length in rows]
        kept = [y for y in best if not (excluded and y == ())]
        expected = torch.stack([shares[y] for y in kept]).softmax(0)
        # Behind the last one there may be empty ones without weight.
        found = dict(zip(spelled[::-1], weights[0].tolist()[::-1]))
        assert (
            spelled[1] == ()
            and [y for y in dict.fromkeys(spelled) if found[y] > 0] == kept
        )
        torch.testing.assert_close(
            torch.tensor([found[y] for y in kept], dtype=torch.float64), expected
        )


@pytest.mark.parametrize("name", ["nbest_ctc", "soft_ctc", "occupancy_ce"])
def test_a_list_without_the_empty_transcript_teaches_the_others(name) -> None:
    """The list of two is the one of one that is left."""
    student, label = nearly_silent()
    both, one = (criteria.build(name, nbest=n, beam_size=9) for n in (2, 1))
    excluded = label._replace(excludes_empty=True)
    losses = both(student, label.lengths, excluded)
    torch.testing.assert_close(losses, one(student, label.lengths, label))
    assert (losses - both(student, label.lengths, label)).abs() > 0.1
    # One that has no other stays.
    silent = torch.full_like(label.log_probs, -torch.inf)
    silent[..., 0] = 0.0
    silent = make_label(silent, label.lengths)._replace(excludes_empty=True)
    assert criteria.NBestCTC(2).transcripts(silent)[2].tolist() == [[1.0, 0.0]]


def test_a_teacher_that_says_nan_leaves_its_first_transcript() -> None:
    _, label = tiny()
    broken = label._replace(log_probs=torch.full_like(label.log_probs, math.nan))
    _, _, weights = criteria.NBestCTC(3).transcripts(broken)
    assert weights.tolist() == [[1.0, 0.0, 0.0]]


def test_what_the_settings_say() -> None:
    assert not criteria.build("nbest_ctc", nbest=1).needs_posteriors
    many = criteria.build("nbest_ctc", nbest=5)
    assert many.needs_posteriors and many.beam_size == 10
