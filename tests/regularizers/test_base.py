"""Regularizers and the running mean: generic properties, and plain loops."""

import io
import math

import pytest
import torch
import torch.nn.functional as F

from espnet_softpl import regularizers
from espnet_softpl.labels.prior import FLOOR, RunningMean, mean_posterior, with_floor
from espnet_softpl.labels.pseudo_label import PseudoLabel
from espnet_softpl.regularizers.mean_entropy import negative_entropy
from espnet_softpl.regularizers.prior_kl import kl_to_prior
from tests.conftest import make_label, make_log_probs

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


def plain_mean(probs: torch.Tensor, lengths, weight) -> list[float]:
    """Average the frames of the kept utterances, one number at a time."""
    total, frames = [0.0] * V, 0
    for b in range(len(lengths)):
        if weight[b] > 0:
            for t in range(int(lengths[b])):
                frames += 1
                for v in range(V):
                    total[v] += float(probs[b, t, v])
    return [share / frames for share in total]


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


def test_prior_kl_of_an_unknown_prior_is_zero_with_a_graph() -> None:
    logits, label = student_and_label()
    log_probs = logits.log_softmax(-1)
    label = label._replace(prior=None)
    losses = regularizers.build("prior_kl")(log_probs, LENGTHS, label)
    losses.sum().backward()
    assert (losses == 0).all() and (logits.grad == 0).all()


def test_only_prior_kl_needs_the_prior() -> None:
    asked = {name: regularizers.build(name).needs_prior for name in SETTINGS}
    assert asked == {"mean_entropy": False, "prior_kl": True}


def test_minima() -> None:
    uniform = torch.full((V,), 1.0 / V)
    one_hot = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])
    torch.testing.assert_close(negative_entropy(uniform).item(), -math.log(V))
    assert negative_entropy(one_hot) == 0.0
    assert kl_to_prior(with_floor(PRIOR), PRIOR).abs() < 1e-6
    assert kl_to_prior(uniform, PRIOR) > 0 and kl_to_prior(one_hot, PRIOR) > 0
    # Never seen in the prior: dear, but not infinite.
    unseen = kl_to_prior(torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0]), PRIOR)
    torch.testing.assert_close(unseen.item(), -math.log(FLOOR), rtol=1e-4, atol=0.0)


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


def test_the_floor_leaves_a_distribution() -> None:
    floored = with_floor(torch.eye(5000, dtype=torch.float64)[0])
    torch.testing.assert_close(floored.sum().item(), 1.0)
    assert floored.min() > 0.99 * FLOOR


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.99, 1.0])
def test_running_mean_is_the_bias_corrected_average(decay) -> None:
    running = RunningMean(decay)
    assert running.value is None
    average, weight = torch.zeros(V, dtype=torch.float64), 0.0
    for _ in range(5):
        log_probs = make_log_probs(B, T, V, torch.float64)
        running.update(log_probs, LENGTHS)
        mean = torch.tensor(
            plain_mean(log_probs.exp(), LENGTHS, torch.ones(B)), dtype=torch.float64
        )
        average, weight = decay * average + mean, decay * weight + 1.0
        torch.testing.assert_close(running.value, (average / weight).float())


def test_running_mean_has_no_gradient_and_is_float32() -> None:
    running = RunningMean()
    for dtype in (torch.float16, torch.float32, torch.float64):
        logits = torch.randn(B, T, V, dtype=dtype, requires_grad=True)
        running.update(logits.log_softmax(-1), LENGTHS)
        assert running.value.dtype == torch.float32
        assert not running.value.requires_grad


def test_running_mean_ignores_padding_bit_for_bit() -> None:
    log_probs = make_log_probs(B, T, V)
    one, other = RunningMean(), RunningMean()
    one.update(log_probs, LENGTHS)
    other.update(F.pad(log_probs, (0, 0, 0, 300), value=math.nan), LENGTHS)
    assert torch.equal(one.value, other.value)


def test_running_mean_passes_over_batches_without_a_mean() -> None:
    running = RunningMean()
    running.update(make_log_probs(B, T, V), torch.zeros_like(LENGTHS))
    assert running.value is None
    running.update(make_log_probs(B, T, V), LENGTHS)
    before = running.value
    running.update(torch.full((B, T, V), math.nan), LENGTHS)
    running.update(make_log_probs(B, T, V), torch.zeros_like(LENGTHS))
    assert torch.equal(running.value, before)


@pytest.mark.parametrize("batches", [0, 3])
def test_running_mean_resumes_bit_for_bit(batches) -> None:
    running, resumed = RunningMean(), RunningMean()
    for _ in range(batches):
        running.update(make_log_probs(B, T, V), LENGTHS)
    file = io.BytesIO()
    torch.save(running.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(3):
        log_probs = make_log_probs(B, T, V)
        running.update(log_probs, LENGTHS)
        resumed.update(log_probs, LENGTHS)
        assert torch.equal(running.value, resumed.value)


@pytest.mark.parametrize("decay", [-0.1, 1.1, math.nan, "0.5"])
def test_running_mean_refuses_a_bad_decay(decay) -> None:
    with pytest.raises(ValueError, match="decay"):
        RunningMean(decay)
