"""CTC on an N-best list: with all transcripts it is their cross-entropy."""

import pytest

from espnet_softpl import criteria
from tests.conftest import transcript_cross_entropy, transcript_log_probs
from tests.criteria.test_base import tiny


@pytest.mark.parametrize("frames, tokens", [(1, 3), (3, 4), (4, 3), (5, 3)])
def test_nbest_ctc_of_all_transcripts_is_the_transcript_cross_entropy(
    frames, tokens
) -> None:
    student, label = tiny(frames, tokens)
    number = len(transcript_log_probs(label.log_probs[0]))
    criterion = criteria.build("nbest_ctc", nbest=number, beam_size=2 * number)
    loss = criterion(student, label.lengths, label)
    expected = transcript_cross_entropy(student[0], label.log_probs[0])
    assert loss.item() == pytest.approx(expected, rel=1e-6)
