"""CTC over a confusion network, against all alignments of all its paths."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch.nn.functional import ctc_loss

from espnet_softpl.ctc.confusion import ConfusionNetwork
from espnet_softpl.ctc.graph import graph_ctc
from tests.conftest import all_paths, make_log_probs, path_log_prob, reference_collapse

pytestmark = pytest.mark.usefixtures("both_spaces")

Bins = list[dict[int, float]]

# The bins of one utterance each; the key -1 is epsilon.
NETWORKS: dict[str, Bins] = {
    "plain": [{1: 1.0}, {2: 1.0}],
    "repeat": [{1: 1.0}, {1: 1.0}],
    "choice": [{1: 0.7, 2: 0.3}, {3: 1.0}],
    "choice among equal neighbors": [{1: 0.7, 2: 0.3}, {2: 0.6, 1: 0.4}],
    "three alternatives": [{1: 0.5, 2: 0.3, 3: 0.2}, {3: 0.1, 2: 0.3, 1: 0.6}],
    "skip at the start": [{1: 0.4, -1: 0.6}, {2: 1.0}],
    "skip at the end": [{1: 1.0}, {2: 0.4, -1: 0.6}],
    "repeat across a skip": [{1: 1.0}, {2: 0.3, -1: 0.7}, {1: 1.0}],
    "run of skips": [{1: 0.4, -1: 0.6}, {1: 0.3, 2: 0.5, -1: 0.2}, {2: 0.9, -1: 0.1}],
    "skips inside": [{3: 1.0}, {3: 0.4, -1: 0.6}, {2: 0.5, -1: 0.5}, {3: 0.8, 1: 0.2}],
    "the same path twice": [{1: 0.5, -1: 0.5}, {1: 0.5, -1: 0.5}, {1: 0.2, -1: 0.8}],
    "never taken": [{1: 0.0, 2: 1.0}, {3: 0.0, -1: 1.0}, {2: 1.0}],
    "empty": [],
    "too long": [{1: 1.0}, {1: 1.0}, {2: 1.0}, {2: 1.0}],
    "too long but for a skip": [{1: 1.0}, {1: 1.0}, {2: 0.9, -1: 0.1}, {2: 1.0}],
}


def make_network(
    utterances: list[Bins], more_bins: int = 0, more_alternatives: int = 0
) -> ConfusionNetwork:
    """Pad bins into a network, with room to spare where asked."""
    num_bins = max(map(len, utterances)) + more_bins
    width = max((len(b) for bins in utterances for b in bins), default=1)
    shape = (len(utterances), num_bins, width + more_alternatives)
    tokens = torch.full(shape, -1)
    weights = torch.zeros(shape, dtype=torch.float64)
    skips = torch.ones(shape[:2], dtype=torch.float64)
    for row, bins in enumerate(utterances):
        for column, place in enumerate(bins):
            skips[row, column] = place.get(-1, 0.0)
            taken = [(token, prob) for token, prob in place.items() if token != -1]
            for slot, (token, prob) in enumerate(taken):
                tokens[row, column, slot] = token
                weights[row, column, slot] = prob
    return ConfusionNetwork(
        tokens, weights, skips, torch.tensor([len(bins) for bins in utterances])
    )


def transcript_weights(bins: Bins) -> dict[tuple[int, ...], float]:
    """Add up the paths of a network by what they spell."""
    weights: dict[tuple[int, ...], float] = {}
    for path in itertools.product(*(place.items() for place in bins)):
        transcript = tuple(token for token, _ in path if token != -1)
        weight = math.prod(prob for _, prob in path)
        weights[transcript] = weights.get(transcript, 0.0) + weight
    return weights


def reference_loss(log_probs: torch.Tensor, bins: Bins) -> torch.Tensor:
    """Enumerate every alignment under (T, V) log-probabilities."""
    weights = transcript_weights(bins)
    total = torch.zeros((), dtype=log_probs.dtype)
    for path in all_paths(*log_probs.shape):
        weight = weights.get(reference_collapse(path), 0.0)
        if weight > 0:
            total = total + weight * path_log_prob(log_probs, path).exp()
    return -total.log() if total > 0 else total


def random_bins(num_bins: int, num_tokens: int) -> Bins:
    """Draw bins of random subsets of the tokens and epsilon."""
    bins = []
    for _ in range(num_bins):
        size = int(torch.randint(1, num_tokens + 1, ()))
        tokens = torch.randperm(num_tokens)[:size].tolist()
        probs = torch.rand(size, dtype=torch.float64)
        probs = (probs / probs.sum()).tolist()
        bins.append({token or -1: prob for token, prob in zip(tokens, probs)})
    return bins


@pytest.mark.parametrize("name", NETWORKS)
def test_loss_and_gradient_by_enumeration(name: str) -> None:
    log_probs = make_log_probs(1, 5, 4, torch.float64).requires_grad_()
    expected = reference_loss(log_probs[0], NETWORKS[name])
    network = make_network([NETWORKS[name]])
    loss = graph_ctc(log_probs, torch.tensor([5]), network)
    torch.testing.assert_close(loss[0], expected, rtol=1e-7, atol=1e-9)
    if name == "too long":
        assert loss.item() == 0
    else:
        (wanted,) = torch.autograd.grad(expected, log_probs)
        (gradient,) = torch.autograd.grad(loss.sum(), log_probs)
        torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-9)
        # Every frame emits one token.
        torch.testing.assert_close(gradient.sum(-1), -torch.ones_like(gradient[..., 0]))


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5])
def test_random_networks_in_one_batch(num_frames: int) -> None:
    """Scores need not be normalized, and utterances differ in frames and bins."""
    utterances = [random_bins(num_bins, 4) for num_bins in (0, 1, 2, 2, 3, 3, 4, 4)]
    lengths = torch.randint(1, num_frames + 1, (len(utterances),))
    shape = (len(utterances), num_frames, 4)
    scores = torch.randn(shape, dtype=torch.float64).requires_grad_()
    expected = torch.stack(
        [
            reference_loss(row[:length], bins)
            for row, length, bins in zip(scores, lengths.tolist(), utterances)
        ]
    )
    loss = graph_ctc(scores, lengths, make_network(utterances))
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=1e-9)
    scale = torch.rand_like(loss)
    wanted = torch.autograd.grad((scale * expected).sum(), scores)
    gradient = torch.autograd.grad((scale * loss).sum(), scores)
    torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-9)


def test_one_token_twice_in_a_bin_counts_twice() -> None:
    log_probs = make_log_probs(1, 4, 3, torch.float64)
    once = make_network([[{1: 1.0}, {1: 1.0}]])
    halves = torch.tensor([[[0.25, 0.75], [0.5, 0.5]]], dtype=torch.float64)
    twice = once._replace(tokens=torch.ones(1, 2, 2, dtype=torch.long), weights=halves)
    lengths = torch.tensor([4])
    torch.testing.assert_close(
        graph_ctc(log_probs, lengths, twice), graph_ctc(log_probs, lengths, once)
    )


def test_an_empty_network_wants_blanks() -> None:
    log_probs = make_log_probs(2, 4, 3, torch.float64).requires_grad_()
    lengths = torch.tensor([4, 2])
    loss = graph_ctc(log_probs, lengths, make_network([[], []]))
    loss.sum().backward()
    assert loss[0].item() == pytest.approx(-log_probs[0, :, 0].sum().item())
    assert loss[1].item() == pytest.approx(-log_probs[1, :2, 0].sum().item())
    wanted = torch.zeros_like(log_probs)
    wanted[0, :, 0] = wanted[1, :2, 0] = -1
    torch.testing.assert_close(log_probs.grad, wanted)


def test_no_frames_leave_only_the_skips() -> None:
    log_probs = make_log_probs(2, 3, 3, torch.float64).requires_grad_()
    network = make_network([[{1: 0.5, -1: 0.5}], [{1: 1.0}]])
    loss = graph_ctc(log_probs, torch.tensor([0, 0]), network)
    loss.sum().backward()
    assert loss.tolist() == pytest.approx([-torch.tensor(0.5).log().item(), 0.0])
    assert not log_probs.grad.any()


@pytest.mark.parametrize(
    "num_frames, num_labels, tolerance", [(9, 3, 1e-6), (60, 15, 1e-5)]
)
def test_one_path_is_plain_ctc(
    num_frames: int, num_labels: int, tolerance: float
) -> None:
    """In float32 against torch's in float64: its float32 gradient is less exact."""
    logits = 2 * torch.randn(4, num_frames, 6)
    tokens = torch.randint(1, 6, (4, num_labels))
    token_lengths = torch.tensor([num_labels, 0, num_labels - 1, 1])
    lengths = torch.tensor([num_frames, num_frames - 1, num_frames, 5])
    bins = [
        [{token: 1.0} for token in row[:length]]
        for row, length in zip(tokens.tolist(), token_lengths.tolist())
    ]
    ours = logits.clone().requires_grad_()
    loss = graph_ctc(ours.log_softmax(-1), lengths, make_network(bins))
    loss.sum().backward()
    exact = logits.double().requires_grad_()
    log_probs = exact.log_softmax(-1).transpose(0, 1)
    wanted = ctc_loss(log_probs, tokens, lengths, token_lengths, reduction="none")
    wanted.sum().backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=0, atol=tolerance)


def test_gradient_by_finite_differences() -> None:
    scores = torch.randn(3, 5, 4, dtype=torch.float64).requires_grad_()
    names = ("skips inside", "choice among equal neighbors", "empty")
    network = make_network([NETWORKS[name] for name in names])
    lengths = torch.tensor([5, 4, 3])
    assert torch.autograd.gradcheck(lambda s: graph_ctc(s, lengths, network), scores)


def batch() -> tuple[torch.Tensor, torch.Tensor, list[Bins]]:
    """Make a batch of long random networks, of unequal lengths, in float32."""
    utterances = [random_bins(n, 6) for n in (9, 1, 0, 6, 12, 1)]
    log_probs = make_log_probs(len(utterances), 23, 7)
    return log_probs, torch.tensor([20, 11, 23, 17, 23, 2]), utterances


def loss_and_gradient(
    log_probs: torch.Tensor, lengths: torch.Tensor, network: ConfusionNetwork
) -> tuple[torch.Tensor, torch.Tensor]:
    log_probs = log_probs.clone().requires_grad_()
    loss = graph_ctc(log_probs, lengths, network)
    loss.sum().backward()
    return loss.detach(), log_probs.grad


@pytest.mark.parametrize("filling", [0.0, 7.0, -torch.inf, torch.nan])
def test_padding_changes_no_bit(filling: float) -> None:
    log_probs, lengths, utterances = batch()
    loss, gradient = loss_and_gradient(log_probs, lengths, make_network(utterances))
    padded = torch.full((len(lengths), 30, 7), filling)
    for row, length in enumerate(lengths.tolist()):
        padded[row, :length] = log_probs[row, :length]
    more_loss, more_gradient = loss_and_gradient(
        padded, lengths, make_network(utterances, more_bins=3, more_alternatives=2)
    )
    assert torch.equal(loss, more_loss)
    assert torch.equal(gradient, more_gradient[:, :23])
    for row, length in enumerate(lengths.tolist()):
        assert not more_gradient[row, length:].any()


def test_what_lies_behind_the_bins_is_ignored() -> None:
    log_probs, lengths, utterances = batch()
    network = make_network(utterances)
    wanted = loss_and_gradient(log_probs, lengths, network)
    behind = torch.arange(network.tokens.size(1)) >= network.bins.unsqueeze(1)
    network.tokens[behind] = 3
    network.weights[behind] = 0.5
    network.skips[behind] = 0.2
    found = loss_and_gradient(log_probs, lengths, network)
    assert torch.equal(found[0], wanted[0]) and torch.equal(found[1], wanted[1])


def test_company_and_order_change_no_bit() -> None:
    log_probs, lengths, utterances = batch()
    loss, gradient = loss_and_gradient(log_probs, lengths, make_network(utterances))
    for row, length in enumerate(lengths.tolist()):
        alone = loss_and_gradient(
            log_probs[row : row + 1, :length],
            lengths[row : row + 1],
            make_network(utterances[row : row + 1]),
        )
        assert torch.equal(alone[0][0], loss[row]), row
        assert torch.equal(alone[1][0], gradient[row, :length]), row
    order = [3, 5, 0, 4, 2, 1]
    shuffled = loss_and_gradient(
        log_probs[order], lengths[order], make_network([utterances[i] for i in order])
    )
    assert torch.equal(shuffled[0], loss[order])
    assert torch.equal(shuffled[1], gradient[order])


def test_an_impossible_utterance_spoils_no_other() -> None:
    names = ("too long", "choice", "too long but for a skip")
    network = make_network([NETWORKS[name] for name in names])
    log_probs = make_log_probs(3, 4, 4)
    loss, gradient = loss_and_gradient(log_probs, torch.tensor([4, 4, 4]), network)
    assert loss[0] == 0 and not gradient[0].any()
    assert (loss[1:] > 0).all() and gradient[1:].isfinite().all()


def test_impossible_tokens_are_avoided() -> None:
    """Frames may rule tokens out; ruling out all paths is like too few frames."""
    log_probs = make_log_probs(2, 4, 4, torch.float64)
    log_probs[0, :, 1] = -torch.inf
    log_probs[1, :, 1:3] = -torch.inf
    network = make_network([NETWORKS["choice"]] * 2)
    loss, gradient = loss_and_gradient(log_probs, torch.tensor([4, 4]), network)
    expected = reference_loss(log_probs[0], NETWORKS["choice"])
    assert loss[0].item() == pytest.approx(expected.item(), rel=1e-7)
    torch.testing.assert_close(gradient[0].sum(-1), -torch.ones(4, dtype=torch.float64))
    assert loss[1] == 0 and not gradient[1].any()


def test_a_broken_frame_shows() -> None:
    log_probs = make_log_probs(2, 4, 4)
    log_probs[0, 2] = torch.nan
    network = make_network([NETWORKS["choice"]] * 2)
    loss = graph_ctc(log_probs, torch.tensor([4, 4]), network)
    assert loss[0].isnan() and loss[1].isfinite()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    log_probs = make_log_probs(1, 5, 4).to(dtype).requires_grad_()
    network = make_network([NETWORKS["skips inside"]])
    loss = graph_ctc(log_probs, torch.tensor([5]), network)
    wanted = graph_ctc(log_probs.float(), torch.tensor([5]), network)
    loss.sum().backward()
    assert loss.dtype == torch.float32 and torch.equal(loss, wanted)
    assert log_probs.grad.dtype == dtype and log_probs.grad.isfinite().all()


def test_the_gradient_has_no_gradient() -> None:
    log_probs = make_log_probs(1, 5, 4).requires_grad_()
    scale = torch.ones((), requires_grad=True)
    network = make_network([NETWORKS["plain"]])
    loss = scale * graph_ctc(log_probs, torch.tensor([5]), network).sum()
    (gradient,) = torch.autograd.grad(loss, log_probs, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu() -> None:
    log_probs, lengths, utterances = batch()
    network = make_network(utterances)
    wanted = loss_and_gradient(log_probs, lengths, network)
    on_gpu = ConfusionNetwork(*(part.cuda() for part in network))
    found = loss_and_gradient(log_probs.cuda(), lengths.cuda(), on_gpu)
    torch.testing.assert_close(found[0].cpu(), wanted[0])
    torch.testing.assert_close(found[1].cpu(), wanted[1])
