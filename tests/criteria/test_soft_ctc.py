"""SoftCTC over the network of a teacher."""

import torch

from espnet_softpl import criteria
from tests.criteria.test_base import tiny


def test_soft_ctc_of_one_frame_sums_the_student_over_the_teacher() -> None:
    """With one frame there is one bin, and the network is the teacher itself."""
    student, label = tiny(frames=1, tokens=4)
    loss = criteria.build("soft_ctc", nbest=4)(student, label.lengths, label)
    expected = -(label.log_probs + student).logsumexp(-1)
    torch.testing.assert_close(loss, expected[:, 0], rtol=1e-6, atol=1e-6)
