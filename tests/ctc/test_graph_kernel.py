"""The compiled sum over a network's alignments, against that in log space."""

import numpy as np
import pytest
import torch

from espnet_softpl.ctc.graph import graph_ctc
from espnet_softpl.ctc.graph_kernel import lay_out
from tests.conftest import make_log_probs
from tests.ctc.test_graph import NETWORKS, loss_and_gradient, make_network, random_bins


@pytest.mark.parametrize("num_bins", [5, 40])
def test_it_agrees_with_log_space(
    num_bins: int, request: pytest.FixtureRequest
) -> None:
    """Of 40 bins all labels have rivals, and most are far from where they can be."""
    skippable = [{3: 0.4, -1: 0.6}, {2: 0.3, 3: 0.3, -1: 0.4}] * (num_bins // 2)
    networks = [random_bins(num_bins, 6) for _ in range(4)]
    utterances = [*networks, skippable, [{2: 1.0}] * num_bins]
    log_probs = make_log_probs(len(utterances), 150, 7, torch.float64)
    lengths = torch.tensor([150, 100, 149, 90, 130, 140])
    network = make_network(utterances)
    found = loss_and_gradient(log_probs, lengths, network)
    request.getfixturevalue("in_logs")
    wanted = loss_and_gradient(log_probs, lengths, network)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)


def test_threads_change_no_bit(monkeypatch) -> None:
    """Nor does it matter how many networks an utterance has."""
    utterances = [random_bins(n, 6) for n in (9, 1, 6, 3, 0, 5)]
    network = make_network(utterances)
    log_probs, lengths = make_log_probs(3, 30, 7), torch.tensor([30, 17, 25])
    wanted = loss_and_gradient(log_probs, lengths, network)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    found = loss_and_gradient(log_probs, lengths, network)
    assert all(map(torch.equal, found, wanted))
    nothing = make_network([[{1: 1.0}]])
    nothing = type(nothing)(*(part[:0] for part in nothing))
    assert graph_ctc(log_probs[:0], lengths[:0], nothing).shape == (0,)


def arrays(bins: list[dict[int, float]]) -> tuple[np.ndarray, ...]:
    return tuple(part.numpy() for part in make_network([bins]))


def test_the_layout_by_hand() -> None:
    """Token 3 in bins 1, 2 and 4; bins 2 and 3 may be skipped."""
    layout = lay_out(*arrays(NETWORKS["skips inside"]), 4)
    first, symbols, tokens_of, sizes, weights, skips, rivals = (
        part[0].tolist() for part in layout
    )
    assert first == [0, 0, 1, 2, 3, 5]
    assert symbols[:5] == [1, 1, 2, 1, 3]
    assert tokens_of[:sizes] == [0, 3, 2, 1]
    assert weights[:5] == [1.0, 0.4, 0.5, 0.8, 0.2]
    assert skips == [0.0, 0.0, 0.6, 0.5, 0.0]
    assert rivals[:5] == [2, 3, 0, 1, 0]


@pytest.mark.parametrize("token", [-2, 0, 4])
def test_a_token_that_is_none_is_refused(token: int) -> None:
    with pytest.raises(ValueError, match="token is not in"):
        lay_out(*arrays([{token: 1.0}]), 4)


def test_more_bins_than_there_are_are_refused() -> None:
    tokens, weights, skips, bins = arrays([{1: 1.0}])
    with pytest.raises(ValueError, match="longer than its padding"):
        lay_out(tokens, weights, skips, bins + 1, 4)
