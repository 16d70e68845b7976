"""The compiled alignment, against the one in torch."""

import pytest
import torch

from espnet_softpl.ctc import kernels
from espnet_softpl.ctc.viterbi import viterbi
from tests.conftest import make_log_probs


def test_it_agrees_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    log_probs = make_log_probs(4, 80, 6, torch.float64)
    log_probs[1, 7] = torch.nan
    log_probs[2, :, 3] = -torch.inf
    tokens = torch.randint(1, 6, (4, 30))
    tokens[2, 5] = 3
    given = log_probs, torch.tensor([80, 80, 79, 60]), tokens
    token_lengths = torch.tensor([30, 20, 30, 1])
    path, score = viterbi(*given, token_lengths)
    monkeypatch.setattr(kernels, "usable", lambda log_probs: False)
    wanted, wanted_score = viterbi(*given, token_lengths)
    assert torch.equal(path, wanted) and (path[1:3] == -1).all()
    torch.testing.assert_close(score, wanted_score)


def test_no_frames_fit_no_labels() -> None:
    lengths, tokens = torch.tensor([0, 0]), torch.tensor([[1], [1]])
    path, score = viterbi(torch.zeros(2, 3, 4), lengths, tokens, torch.tensor([0, 1]))
    assert (path == -1).all() and score.tolist() == [0.0, -torch.inf]


@pytest.mark.parametrize(
    "length, token, labels, message",
    [(4, 1, 1, "lengths"), (3, 4, 1, "token"), (3, 1, 2, "lengths")],
)
def test_what_does_not_fit_is_refused(
    length: int, token: int, labels: int, message: str
) -> None:
    given = torch.tensor([length]), torch.tensor([[token]]), torch.tensor([labels])
    with pytest.raises(ValueError, match=message):
        viterbi(torch.zeros(1, 3, 4), *given)
