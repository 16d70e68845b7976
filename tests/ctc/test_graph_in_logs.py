"""What the kernel cannot say in probabilities is computed in log space."""

import pytest
import torch

from espnet_softpl.ctc import graph
from espnet_softpl.ctc.confusion import ConfusionNetwork
from espnet_softpl.ctc.graph import graph_ctc
from espnet_softpl.ctc.loss import ctc_nll
from tests.conftest import make_log_probs
from tests.ctc.test_graph import loss_and_gradient, make_network

LABELS = [1 + number % 3 for number in range(50)]
LENGTHS = torch.tensor([120, 120])


def sure_of_blank(nats: float) -> torch.Tensor:
    """Make frames of which the first utterance's are blank by so many nats."""
    log_probs = make_log_probs(2, 120, 5, torch.float64)
    log_probs[0, :, 1:] = -nats
    return log_probs.log_softmax(-1)


def network() -> ConfusionNetwork:
    bins = [{label: 0.7, 4: 0.3} for label in LABELS]
    return make_network([bins, bins])


def left_over(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the losses computed in log space from now on."""
    losses: list[float] = []
    compute = graph._sum_in_logs

    def note(*args):
        losses.append(compute(*args)[0])
        return compute(*args)

    monkeypatch.setattr(graph, "_sum_in_logs", note)
    return losses


@pytest.mark.parametrize("nats, rows", [(9.0, []), (80.0, [0])])
def test_a_model_that_is_sure_of_blank(
    nats: float, rows: list[int], request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 80 nats a label it has e^-4000, at 9 nats e^-187."""
    log_probs, losses = sure_of_blank(nats), left_over(monkeypatch)
    found = loss_and_gradient(log_probs, LENGTHS, network())
    assert losses == found[0][rows].tolist()
    request.getfixturevalue("in_logs")
    wanted = loss_and_gradient(log_probs, LENGTHS, network())
    assert wanted[0][0] > 20 * nats and wanted[0][1] > 0
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_a_frame_that_says_something_else_altogether() -> None:
    """Two thousand nats lie between the frame's best token and what can follow."""
    log_probs = sure_of_blank(0.0)
    log_probs[0, 0, :3] = log_probs[0, 0, 4] = -2000.0
    loss, gradient = loss_and_gradient(log_probs, LENGTHS, network())
    assert 2000 < loss[0] < 2200
    torch.testing.assert_close(gradient[0].sum(-1), -torch.ones(120).double())


def test_one_transcript_of_several_is_left_over() -> None:
    log_probs = sure_of_blank(80.0).requires_grad_()
    tokens = torch.full((2, 2, 50), -1)
    tokens[:, 0] = torch.tensor(LABELS)
    tokens[:, 1, :1] = 2
    token_lengths = torch.tensor([[50, 1], [50, 1]])
    losses = ctc_nll(log_probs, LENGTHS, tokens, token_lengths)
    (gradient,) = torch.autograd.grad(losses.sum(), log_probs)
    exact = log_probs.detach().requires_grad_()
    for n in range(2):
        wanted = torch.nn.functional.ctc_loss(
            exact.transpose(0, 1),
            tokens[:, n, : token_lengths[0, n]],
            LENGTHS,
            token_lengths[:, n],
            reduction="none",
        )
        torch.testing.assert_close(losses[:, n], wanted)
        # Torch takes the posteriors' share away: what stands here are occupancies.
        (theirs,) = torch.autograd.grad(wanted.sum(), exact)
        gradient = gradient + exact.exp() - theirs
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-7)


@pytest.mark.parametrize("length", [-1, 121])
def test_lengths_beyond_the_frames_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match=r"lengths must be in \[0, T\]"):
        graph_ctc(sure_of_blank(1.0), torch.tensor([120, length]), network())
