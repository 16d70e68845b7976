"""Confusion networks of weighted hypotheses."""

from __future__ import annotations

import itertools

import pytest
import torch

from espnet_softpl.ctc.confusion import ConfusionNetwork, confusion_network

Hypotheses = list[tuple[list[int], float]]


def build(*utterances: Hypotheses, max_gap: int = 4) -> ConfusionNetwork:
    """Build the network of lists of (tokens, probability), padded with junk."""
    num_hypotheses = max(map(len, utterances))
    width = max(len(tokens) for pairs in utterances for tokens, _ in pairs)
    tokens = torch.full((len(utterances), num_hypotheses, width), 99)
    lengths = torch.zeros(len(utterances), num_hypotheses, dtype=torch.long)
    probs = torch.zeros(len(utterances), num_hypotheses, dtype=torch.float64)
    for row, pairs in enumerate(utterances):
        for column, (hypothesis, prob) in enumerate(pairs):
            tokens[row, column, : len(hypothesis)] = torch.tensor(hypothesis)
            lengths[row, column] = len(hypothesis)
            probs[row, column] = prob
    return confusion_network(tokens, lengths, probs, max_gap)


def read(network: ConfusionNetwork, row: int = 0) -> list[dict[int, float]]:
    """List the bins of one utterance; the key -1 is epsilon, where it has weight."""
    bins = []
    for column in range(int(network.bins[row])):
        tokens = network.tokens[row, column].tolist()
        weights = network.weights[row, column].tolist()
        place = {token: weight for token, weight in zip(tokens, weights) if token != -1}
        skip = network.skips[row, column].item()
        bins.append({**place, -1: skip} if skip else place)
    return bins


def approx(bins: list[dict[int, float]]) -> list[object]:
    return [pytest.approx(place, abs=1e-12) for place in bins]


@pytest.mark.parametrize(
    "hypotheses, bins",
    [
        ([([5, 6, 6], 1.0)], [{5: 1.0}, {6: 1.0}, {6: 1.0}]),
        ([([], 1.0)], []),
        # A substitution, and two that agree.
        (
            [([5, 6], 0.5), ([5, 7], 0.2), ([5, 7], 0.3)],
            [{5: 1.0}, {6: 0.5, 7: 0.5}],
        ),
        # A deletion.
        ([([5, 6, 7], 0.6), ([5, 7], 0.4)], [{5: 1.0}, {6: 0.6, -1: 0.4}, {7: 1.0}]),
        # Insertions at either end and inside.
        ([([5], 0.6), ([8, 5], 0.4)], [{8: 0.4, -1: 0.6}, {5: 1.0}]),
        ([([5], 0.6), ([5, 8], 0.4)], [{5: 1.0}, {8: 0.4, -1: 0.6}]),
        # The k-th insertion goes to the k-th bin of the gap, whatever it is.
        (
            [([5, 6], 0.5), ([5, 8, 9, 6], 0.3), ([5, 9, 6], 0.2)],
            [{5: 1.0}, {8: 0.3, 9: 0.2, -1: 0.5}, {9: 0.3, -1: 0.7}, {6: 1.0}],
        ),
        # An empty hypothesis deletes all; insertions into an empty one.
        ([([5, 6], 0.9), ([], 0.1)], [{5: 0.9, -1: 0.1}, {6: 0.9, -1: 0.1}]),
        ([([], 0.9), ([5, 6], 0.1)], [{5: 0.1, -1: 0.9}, {6: 0.1, -1: 0.9}]),
        # A hypothesis of probability 0 is not there, though it is the first.
        ([([7], 0.0), ([5, 6], 1.0)], [{5: 1.0}, {6: 1.0}]),
    ],
)
def test_by_hand(hypotheses: Hypotheses, bins: list[dict[int, float]]) -> None:
    assert read(build(hypotheses)) == approx(bins)


@pytest.mark.parametrize("num_gaps, left_out", [(2, False), (3, True)])
def test_a_long_gap_leaves_a_hypothesis_out(num_gaps: int, left_out: bool) -> None:
    extra = list(range(10, 10 + num_gaps))
    short, long = [5, 6, 7], [5, *extra, 6, 7]
    inserting = build([(short, 0.6), (long, 0.2), ([5, 6, 8], 0.2)], max_gap=2)
    deleting = build([(long, 0.6), (short, 0.2), ([*long[:-1], 8], 0.2)], max_gap=2)
    last = {7: 0.75, 8: 0.25} if left_out else {7: 0.8, 8: 0.2}
    for network in (inserting, deleting):
        assert network.skips[0].any().item() != left_out
        assert read(network)[-1] == approx([last])[0]
    assert int(inserting.bins[0]) == (3 if left_out else 3 + num_gaps)


def test_gaps_apart_are_not_added_up() -> None:
    network = build([([5, 6, 7], 0.5), ([8, 5, 8, 6, 8, 7, 8], 0.5)], max_gap=1)
    assert int(network.bins[0]) == 7


def test_padding() -> None:
    network = build([([5, 6], 0.5), ([5, 7], 0.5)], [([4], 1.0)], [([], 1.0)])
    assert network.bins.tolist() == [2, 1, 0]
    assert network.tokens.tolist() == [
        [[5, -1], [6, 7]],
        [[4, -1], [-1, -1]],
        [[-1, -1], [-1, -1]],
    ]
    assert network.weights[1:].tolist() == [[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0]] * 2]
    assert network.skips.tolist() == [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]]


def test_only_empty_hypotheses() -> None:
    network = build([([], 1.0)], [([], 1.0)])
    assert network.tokens.shape == network.weights.shape == (2, 0, 1)
    assert network.skips.shape == (2, 0) and network.bins.tolist() == [0, 0]


def random_hypotheses(num_hypotheses: int, num_labels: int) -> Hypotheses:
    """Draw a pivot and hypotheses a few edits away from it."""
    pivot = torch.randint(1, 5, (num_labels,)).tolist()
    probs = torch.rand(num_hypotheses, dtype=torch.float64).softmax(0).tolist()
    hypotheses = [(pivot, probs[0])]
    for prob in probs[1:]:
        edited = [token for token in pivot if torch.rand(()) > 0.2]
        edited.insert(int(torch.randint(0, len(edited) + 1, ())), 5)
        hypotheses.append((edited, prob))
    return hypotheses


def spelled(bins: list[dict[int, float]]) -> set[tuple[int, ...]]:
    """List the transcripts of all paths."""
    return {
        tuple(token for token in path if token != -1)
        for path in itertools.product(*bins)
    }


@pytest.mark.parametrize("num_hypotheses", [1, 2, 4])
def test_every_hypothesis_is_a_path_and_every_bin_sums_to_one(
    num_hypotheses: int,
) -> None:
    utterances = [random_hypotheses(num_hypotheses, n) for n in (1, 3, 5)]
    network = build(*utterances)
    total = network.weights.sum(-1) + network.skips
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-12)
    assert (network.skips >= 0).all() and (network.weights >= 0).all()
    assert ((network.tokens == -1) == (network.weights == 0)).all()
    for row, hypotheses in enumerate(utterances):
        transcripts = spelled(read(network, row))
        assert {tuple(tokens) for tokens, _ in hypotheses} <= transcripts


def test_types_follow_the_probabilities() -> None:
    tokens, lengths = torch.tensor([[[3, 4]]]), torch.tensor([[2]])
    network = confusion_network(tokens, lengths, torch.ones(1, 1))
    assert network.weights.dtype == network.skips.dtype == torch.float32
    assert network.tokens.dtype == network.bins.dtype == torch.int64


def test_a_pivot_of_hardly_any_probability() -> None:
    """Rounding must not make the skip of an inserted token negative."""
    network = build([([5], 1e-30), *[([5, 6], p) for p in (0.5, 0.1, 0.7)]])
    assert read(network) == approx([{5: 1.0}, {6: 1.0}])
    assert (network.skips >= 0).all()


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="max_gap"):
        build([([5], 1.0)], max_gap=-1)
    with pytest.raises(ValueError, match="no hypothesis"):
        build([([5], 1.0)], [([5], 0.0)])
