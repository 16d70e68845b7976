"""Hard CTC: the sum over alignments, by enumeration."""

import pytest
import torch

from espnet_softpl import criteria
from tests.conftest import (
    all_paths,
    make_label,
    make_log_probs,
    path_log_prob,
    reference_collapse,
)


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


@pytest.mark.parametrize("scale", [0.3, 1.0])
def test_a_prior_divides_inside_of_the_sum(scale) -> None:
    prior = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    logits = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    log_probs = logits.log_softmax(-1)
    label = make_label(make_log_probs(1, 4, 3, torch.float64), torch.tensor([4]))
    label = label._replace(tokens=torch.tensor([[1, 2]]), prior=prior)
    label = label._replace(token_lengths=torch.tensor([2]))
    loss = criteria.build("hard_ctc", prior_scale=scale)(
        log_probs, label.lengths, label
    )
    quotients = log_probs[0] - scale * prior.log()
    paths = [p for p in all_paths(4, 3) if reference_collapse(p) == (1, 2)]
    expected = -torch.stack([path_log_prob(quotients, p) for p in paths]).logsumexp(0)
    torch.testing.assert_close(loss[0], expected, rtol=1e-10, atol=1e-10)
    (gradient,) = torch.autograd.grad(loss.sum(), logits, retain_graph=True)
    (wanted,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(gradient, wanted, rtol=1e-8, atol=1e-10)


def test_the_gradient_with_a_prior_by_finite_differences() -> None:
    label = make_label(make_log_probs(2, 4, 3, torch.float64), torch.tensor([4, 3]))
    label = label._replace(prior=torch.tensor([0.98, 0.019, 0.001]).double())
    part = criteria.build("hard_ctc", prior_scale=0.5)
    logits = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda z: part(z.log_softmax(-1), label.lengths, label), (logits,)
    )


def test_a_prior_leaves_what_has_no_alignment_out_and_waits_until_it_is_known() -> None:
    label = make_label(make_log_probs(1, 2, 3), torch.tensor([2]))
    label = label._replace(tokens=torch.tensor([[1, 1]]))
    label = label._replace(token_lengths=torch.tensor([2]), prior=torch.ones(3) / 3)
    logits = torch.randn(1, 2, 3, requires_grad=True)
    part = criteria.build("hard_ctc", prior_scale=0.5)
    loss = part(logits.log_softmax(-1), label.lengths, label)
    loss.sum().backward()
    assert loss.item() == 0.0 and (logits.grad == 0).all()
    label = label._replace(prior=None, tokens=torch.tensor([[1, 2]]))
    plain = criteria.build("hard_ctc")(logits.log_softmax(-1), label.lengths, label)
    assert part(logits.log_softmax(-1), label.lengths, label) == plain
