"""Hard CTC: the sum over alignments, by enumeration."""

import pytest
import torch

from espnet_softpl import criteria
from tests.conftest import all_paths, make_log_probs, path_log_prob, reference_collapse


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("transcript", [(), (1,), (1, 1), (1, 2), (2, 1, 2), (1, 1, 1)])
def test_hard_ctc_sums_over_all_alignments(frames, transcript) -> None:
    log_probs = make_log_probs(1, frames, 4, torch.float64)
    scores = [
        path_log_prob(log_probs[0], path)
        for path in all_paths(frames, 4)
        if reference_collapse(path) == transcript
    ]
    loss = criteria.hard_ctc(
        log_probs,
        torch.tensor([frames]),
        torch.tensor([transcript], dtype=torch.long),
        torch.tensor([len(transcript)]),
    )
    if scores:
        expected = -torch.stack(scores).logsumexp(0)
        torch.testing.assert_close(loss[0], expected)
    else:
        assert loss[0] == 0.0  # no alignment: left out, not infinite
