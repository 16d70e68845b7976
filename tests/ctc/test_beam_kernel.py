"""The compiled search, against one with dictionaries."""

import numpy as np
import pytest
import torch

from espnet_softpl.ctc import kernels
from espnet_softpl.ctc.beam_kernel import LANES, _best_tokens
from espnet_softpl.ctc.beam_search import prefix_beam_search
from tests.conftest import make_log_probs
from tests.ctc.test_beam_search import assert_same, hypotheses, search_plainly


@pytest.mark.parametrize("num_tokens, beam_size", [(6, 5), (32, 8), (700, 8)])
def test_it_agrees_with_a_plain_search(num_tokens: int, beam_size: int) -> None:
    log_probs = (3 * make_log_probs(5, 60, num_tokens)).log_softmax(-1)
    lengths = torch.tensor([60, 59, 31, 1, 0])
    result = prefix_beam_search(log_probs, lengths, 4, beam_size)
    for utterance, length in enumerate(lengths.tolist()):
        frames = log_probs[utterance, :length]
        wanted = search_plainly(frames, beam_size, min(beam_size, num_tokens - 1))
        assert_same(hypotheses(result, utterance), wanted[:4], tolerance=1e-4)


@pytest.mark.parametrize("threads", [1, 3])
def test_frames_of_a_gpu_lose_nothing(monkeypatch, threads: int) -> None:
    """Only a few of their tokens reach the search."""
    log_probs = (3 * make_log_probs(5, 60, 700)).log_softmax(-1)
    log_probs[3, 0, 5] = torch.nan
    lengths = torch.tensor([60, 59, 31, 1, 0])
    wanted = prefix_beam_search(log_probs, lengths, 4, 8)
    monkeypatch.setattr(kernels, "on_cpu", lambda tensor: False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = prefix_beam_search(log_probs, lengths, 4, 8)
    for part, same in zip(found, wanted):
        assert torch.equal(part[:3], same[:3]) and torch.equal(part[4], same[4])
    assert found.scores[3].isnan().all() and wanted.scores[3].isnan().all()
    empty = prefix_beam_search(log_probs[:0], lengths[:0], 4, 8)
    assert empty.tokens.shape == (0, 4, 0)


@pytest.mark.parametrize("size", [3, 4, LANES, 4 * LANES, 4 * LANES + 1, 1000])
@pytest.mark.parametrize("choices", [2, 70])
def test_the_best_tokens_are_a_stable_order(size: int, choices: int) -> None:
    choices = min(choices, size - 1)
    frame = -torch.randint(0, 5, (size,)).float().numpy()  # Nearly all are tied.
    scores, tokens = np.empty(choices), np.empty(choices, np.int64)
    _best_tokens(frame, np.empty(max(LANES, choices), np.float32), scores, tokens)
    wanted = 1 + np.argsort(-frame[1:], kind="stable")[:choices]
    if choices == size - 1:  # All of them, in their order.
        wanted = np.arange(1, size)
    assert tokens.tolist() == wanted.tolist()
    assert scores.tolist() == frame[wanted].tolist()


@pytest.mark.parametrize("token", [0, 3])
def test_what_is_no_number_has_no_score(token: int) -> None:
    log_probs = make_log_probs(2, 9, 6)
    log_probs[0, 4, token] = torch.nan
    result = prefix_beam_search(log_probs, torch.tensor([9, 9]), 2, 3)
    assert result.scores[0].isnan().all() and result.scores[1].isfinite().all()


def test_lengths_beyond_the_frames_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lengths must be in \[0, T\]"):
        prefix_beam_search(torch.zeros(1, 2, 3), torch.tensor([3]), 1, 1)
