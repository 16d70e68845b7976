"""Regularizers and the running mean: generic properties, and plain loops."""

import math

import pytest
import torch

from espnet_softpl import regularizers
from espnet_softpl.labels.prior import FLOOR, mean_posterior
from espnet_softpl.labels.pseudo_label import PseudoLabel
from tests.conftest import make_label, make_log_probs, plain_mean

SETTINGS = {
    "mean_entropy": [{}, {"weight": 1.0}],
    "prior_kl": [{}, {"weight": 1.0}],
}
CASES = [(name, conf) for name, confs in SETTINGS.items() for conf in confs]
every_regularizer = pytest.mark.parametrize("name, conf", CASES)

B, T, V = 4, 9, 5
LENGTHS = torch.tensor([9, 7, 4, 1])
WEIGHTS = torch.tensor([1.0, 0.0, 0.5, 2.0])
PRIOR = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])


def student_and_label(dtype=torch.float32) -> tuple[torch.Tensor, PseudoLabel]:
    """Draw logits that want gradients, and a label with mixed weights and a prior."""
    logits = torch.randn(B, T, V, dtype=dtype, requires_grad=True)
    label = make_label(make_log_probs(B, T, V, dtype), LENGTHS)
    return logits, label._replace(weight=WEIGHTS, prior=PRIOR)


def rows(label: PseudoLabel, index) -> PseudoLabel:
    """Pick utterances of a label; the prior belongs to all of them."""
    fields = {
        name: getattr(label, name)[index]
        for name in ("log_probs", "lengths", "tokens", "token_lengths", "weight")
    }
    return label._replace(**fields)


def plain_term(name: str, mean: list[float]) -> float:
    """Compute the term of a mean in nats per frame, one token at a time."""
    if name == "mean_entropy":
        return sum(m * math.log(m) for m in mean)
    floored = [max(q, FLOOR) for q in PRIOR.tolist()]
    return sum(m * math.log(m / (q / sum(floored))) for m, q in zip(mean, floored))


def test_the_table_covers_every_regularizer() -> None:
    assert set(SETTINGS) == set(regularizers.available())


@every_regularizer
def test_value_is_that_of_a_plain_loop(name, conf) -> None:
    logits, label = student_and_label(torch.float64)
    log_probs = logits.detach().log_softmax(-1)
    losses = regularizers.build(name, **conf)(log_probs, LENGTHS, label)
    term = plain_term(name, plain_mean(log_probs.exp(), LENGTHS, WEIGHTS))
    weight = conf.get("weight", 0.1)
    kept = [weight * int(n) * term * (w > 0) for n, w in zip(LENGTHS, WEIGHTS)]
    expected = torch.tensor(kept, dtype=torch.float64)
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-9)
    assert losses[1] == 0.0 and losses[0] != 0.0


@every_regularizer
def test_gradients_reach_kept_frames_only(name, conf) -> None:
    logits, label = student_and_label()
    teacher = label.log_probs.clone().requires_grad_(True)
    prior = PRIOR.clone().requires_grad_(True)
    label = label._replace(log_probs=teacher, prior=prior)
    losses = regularizers.build(name, **conf)(logits.log_softmax(-1), LENGTHS, label)
    assert losses.shape == (B,) and torch.isfinite(losses).all()
    losses.sum().backward()
    assert teacher.grad is None and prior.grad is None
    for row, length, weight in zip(logits.grad, LENGTHS, WEIGHTS):
        assert (row[length:] == 0).all()
        assert bool((row[:length] != 0).any()) == bool(weight > 0)


@every_regularizer
def test_an_utterance_of_weight_0_changes_nothing(name, conf) -> None:
    term = regularizers.build(name, **conf)
    logits, label = student_and_label()
    log_probs = logits.detach().log_softmax(-1)
    losses = term(log_probs, LENGTHS, label)
    other = log_probs.clone()
    other[1] = make_log_probs(1, T, V)[0]
    assert torch.equal(losses, term(other, LENGTHS, label))
    kept = torch.tensor([0, 2, 3])
    without = term(log_probs[kept], LENGTHS[kept], rows(label, kept))
    assert torch.equal(losses[kept], without)


@every_regularizer
@pytest.mark.parametrize("extra", [3, 200])
def test_padding_is_invisible_bit_for_bit(name, conf, extra) -> None:
    term = regularizers.build(name, **conf)
    logits, label = student_and_label()
    losses = term(logits.log_softmax(-1), LENGTHS, label)
    junk = (10 * torch.randn(B, extra, V)).log_softmax(-1)
    junk[0, 0] = math.nan
    wide = torch.cat([logits.log_softmax(-1), junk], 1)
    assert torch.equal(losses, term(wide, LENGTHS, label))


@every_regularizer
def test_order_only_permutes(name, conf) -> None:
    term = regularizers.build(name, **conf)
    logits, label = student_and_label()
    log_probs = logits.log_softmax(-1)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = term(log_probs[order], LENGTHS[order], rows(label, order))
    losses = term(log_probs, LENGTHS, label)
    torch.testing.assert_close(shuffled, losses[order], rtol=1e-5, atol=1e-6)


@every_regularizer
def test_frame_weights_are_ignored(name, conf) -> None:
    term = regularizers.build(name, **conf)
    logits, label = student_and_label()
    log_probs = logits.log_softmax(-1)
    weighed = label._replace(frame_weight=torch.rand(B, T))
    losses = term(log_probs, LENGTHS, label)
    assert torch.equal(losses, term(log_probs, LENGTHS, weighed))


@every_regularizer
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, conf, dtype) -> None:
    term = regularizers.build(name, **conf)
    logits, label = student_and_label()
    low = logits.log_softmax(-1).to(dtype)
    losses = term(low, LENGTHS, label)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, term(low.float(), LENGTHS, label))


@every_regularizer
def test_gradcheck(name, conf) -> None:
    term = regularizers.build(name, **conf)
    logits, label = student_and_label(torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return term(x.log_softmax(-1), LENGTHS, label)

    assert torch.autograd.gradcheck(loss, (logits,))


@every_regularizer
@pytest.mark.parametrize("kind", ["one_hot", "underflow", "nothing_kept", "no_frames"])
def test_degenerate_batches_stay_finite(name, conf, kind) -> None:
    logits, label = student_and_label()
    lengths = LENGTHS
    if kind == "one_hot":
        logits = torch.full((B, T, V), -math.inf)
        logits[..., 2] = 0.0
    if kind == "underflow":
        logits = torch.full((B, T, V), -1e4)
        logits[..., 0] = 0.0
    if kind == "nothing_kept":
        label = label._replace(weight=torch.zeros(B))
    if kind == "no_frames":
        lengths = torch.zeros_like(LENGTHS)
    logits = logits.detach().requires_grad_(True)
    losses = regularizers.build(name, **conf)(logits.log_softmax(-1), lengths, label)
    losses.sum().backward()
    assert torch.isfinite(losses).all() and torch.isfinite(logits.grad).all()
    if kind in ("nothing_kept", "no_frames"):
        assert (losses == 0).all() and (logits.grad == 0).all()


def test_only_prior_kl_needs_the_prior() -> None:
    asked = {name: regularizers.build(name).needs_prior for name in SETTINGS}
    assert asked == {"mean_entropy": False, "prior_kl": True}


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_descent_does_what_the_term_promises(name) -> None:
    """A batch of blanks comes to use other tokens."""
    logits = torch.zeros(B, T, V)
    logits[..., 0] = 4.0
    logits.requires_grad_(True)
    _, label = student_and_label()
    label = label._replace(weight=torch.ones(B))
    optimizer = torch.optim.SGD([logits], lr=1.0)
    term = regularizers.build(name, weight=1.0)
    mask = torch.ones(B, T, dtype=torch.bool)
    before = mean_posterior(logits.detach().log_softmax(-1), mask)
    for _ in range(20):
        optimizer.zero_grad()
        term(logits.log_softmax(-1), LENGTHS, label).sum().backward()
        optimizer.step()
    after = mean_posterior(logits.detach().log_softmax(-1), mask)
    assert after[0] < before[0] and after[1] > before[1]


@pytest.mark.parametrize(
    "name, conf, message",
    [
        ("mean_entropi", {}, "pl_regularizer: unknown regularizer.*Did you mean"),
        ("prior_kl", {"wait": 1.0}, "pl_regularizer_conf: unknown key"),
        ("prior_kl", {"weight": -1.0}, ">= 0"),
        ("mean_entropy", {"weight": math.nan}, ">= 0"),
    ],
)
def test_bad_settings_are_refused(name, conf, message) -> None:
    with pytest.raises(ValueError, match=message):
        regularizers.build(name, **conf)
