"""The LM posterior of frames, against all alignments one by one."""

import pytest
import torch

from espnet_softpl import shaping
from espnet_softpl.criteria.soft_ce import soft_ce
from espnet_softpl.labels.token_lm import TokenLM
from espnet_softpl.shaping.lm_posterior import lm_posterior
from tests.conftest import all_paths, make_label, make_log_probs, reference_collapse

LENGTHS = torch.tensor([5, 3, 1])


def make_lm(size: int) -> TokenLM:
    """Draw a bigram of `size` tokens, blank among them."""
    table = (2.0 * torch.randn(size, size, dtype=torch.float64)).log_softmax(1)
    single, ends = torch.randn(2, size, dtype=torch.float64).log_softmax(1)
    return TokenLM(table, single, ends)


def weight(y: tuple[int, ...], lm: TokenLM, s: float, r: float, bonus: float) -> float:
    """Weigh a transcript by the formula, token by token."""
    total = 0.0
    for before, token in zip((0, *y), y):
        total += s * lm.log_probs[before, token] - r * lm.unigram[token] + bonus
    return float(total + s * lm.ends[y[-1] if y else 0])


def by_enumeration(frames: torch.Tensor, *settings) -> torch.Tensor:
    """Sum the alignments of (T, V) one by one."""
    shares = torch.zeros_like(frames)
    for path in all_paths(*frames.shape):
        score = sum(frames[t, v] for t, v in enumerate(path))
        share = (score + weight(reference_collapse(path), *settings)).exp()
        for t, v in enumerate(path):
            shares[t, v] += share
    return shares / shares.sum(-1, keepdim=True)


@pytest.mark.parametrize("scales", [(0.8, 0.4, 0.0), (1.0, 0.0, 0.5), (2.0, 1.0, 0.1)])
def test_it_is_the_sum_over_all_alignments(scales) -> None:
    lm, frames = make_lm(4), make_log_probs(3, 5, 4, torch.float64)
    names = ("lm_scale", "prior_scale", "bonus")
    for topk in (None, 3):
        part = shaping.build(
            "lm_posterior", lm=lm, topk=topk, **dict(zip(names, scales))
        )
        q = part.posteriors(frames, LENGTHS)
        for b, length in enumerate(LENGTHS):
            expected = by_enumeration(frames[b, :length], lm, *scales)
            torch.testing.assert_close(
                q[b, :length].exp(), expected, rtol=1e-10, atol=1e-12
            )


def test_it_is_the_derivative_of_the_log_of_the_sum() -> None:
    lm = make_lm(3)
    frames = make_log_probs(1, 4, 3, torch.float64).requires_grad_(True)
    scores = [
        sum(frames[0, t, v] for t, v in enumerate(path))
        + weight(reference_collapse(path), lm, 1.0, 0.0, 0.0)
        for path in all_paths(4, 3)
    ]
    torch.stack(scores).logsumexp(0).backward()
    q = lm_posterior(frames, torch.tensor([4]), lm.log_probs, lm.ends)
    torch.testing.assert_close(q.exp(), frames.grad, rtol=1e-10, atol=1e-12)


def test_scales_of_0_change_nothing() -> None:
    label = make_label(make_log_probs(3, 5, 4, torch.float64), LENGTHS)
    part = shaping.build("lm_posterior", lm=make_lm(4), lm_scale=0.0, prior_scale=0.0)
    torch.testing.assert_close(
        part(label).log_probs, label.log_probs, rtol=1e-10, atol=0
    )


def test_a_soft_label_with_it_moves_a_student_that_is_the_teacher() -> None:
    logits = torch.randn(3, 5, 4, requires_grad=True)
    log_probs = logits.log_softmax(-1)
    label = make_label(log_probs.detach(), LENGTHS)
    q = shaping.build("lm_posterior", lm=make_lm(4))(label).log_probs
    soft_ce(log_probs, LENGTHS, q).sum().backward()
    for b, length in enumerate(LENGTHS):
        expected = log_probs[b, :length].exp() - q[b, :length].exp()
        torch.testing.assert_close(logits.grad[b, :length], expected, atol=1e-5, rtol=0)
    assert logits.grad.abs().max() > 0.01


def test_topk_leaves_out_tokens_that_are_never_near() -> None:
    frames = torch.tensor(
        [[0.1, 0.6, 0.2, 0.1, 0.0], [0.5, 0.4, 0.0, 0.05, 0.05], [0.1, 0, 0, 0, 0.9]]
    )
    frames = torch.stack((frames, frames.flip(0))).log()
    lengths = torch.tensor([3, 1])
    label = make_label(frames, lengths)
    shaped = shaping.build("lm_posterior", lm=make_lm(5), topk=1)(label)
    assert (shaped.log_probs[0, :, 2:4] == -torch.inf).all()
    assert torch.isfinite(shaped.log_probs[0, 0, :2]).all()


def test_long_and_sure_utterances_do_not_underflow() -> None:
    frames = 60.0 * torch.randn(2, 2000, 6, dtype=torch.float64)
    label = make_label(frames.log_softmax(-1), torch.tensor([2000, 1500]))
    q = shaping.build("lm_posterior", lm=make_lm(6), lm_scale=1.0)(label).log_probs
    torch.testing.assert_close(
        q.logsumexp(-1), torch.zeros(2, 2000, dtype=torch.float64), atol=1e-9, rtol=0
    )
