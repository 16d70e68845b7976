"""Every criterion: the generic properties, and the oracles by enumeration."""

import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import (
    all_paths,
    make_label,
    make_log_probs,
    path_log_prob,
    reference_collapse,
)

from espnet_softpl import criteria
from espnet_softpl.criteria import PLCriterion, PseudoLabel

SETTINGS = {
    "hard_ctc": [{}],
    "soft_ce": [{}, {"temperature": 0.5}, {"temperature": 2.0}],
}
CASES = [(name, conf) for name, confs in SETTINGS.items() for conf in confs]
every_criterion = pytest.mark.parametrize("name, conf", CASES)

B, T, V = 4, 9, 5
LENGTHS = torch.tensor([9, 7, 4, 1])


class Mine(PLCriterion):
    """A user's own criterion, named by dotted path."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, log_probs, lengths, pseudo_label):
        """Return the scaled label weight."""
        return self.scale * pseudo_label.weight


def student_and_label(dtype=torch.float32) -> tuple[torch.Tensor, PseudoLabel]:
    """Draw logits that want gradients, and a label from another distribution."""
    logits = torch.randn(B, T, V, dtype=dtype, requires_grad=True)
    return logits, make_label(make_log_probs(B, T, V, dtype), LENGTHS)


def test_the_table_covers_every_criterion() -> None:
    assert set(SETTINGS) == set(criteria.available())


@every_criterion
def test_shape_gradients_and_no_gradient_to_the_teacher(name, conf) -> None:
    logits, label = student_and_label()
    teacher = label.log_probs.clone().requires_grad_(True)
    label = label._replace(log_probs=teacher)
    losses = criteria.build(name, **conf)(logits.log_softmax(-1), LENGTHS, label)
    assert losses.shape == (B,) and torch.isfinite(losses).all()
    losses.sum().backward()
    assert teacher.grad is None
    for row, length in zip(logits.grad, LENGTHS):
        assert row[:length].abs().sum() > 0
        assert (row[length:] == 0).all()


@every_criterion
def test_padding_is_invisible_bit_for_bit(name, conf) -> None:
    criterion = criteria.build(name, **conf)
    logits, label = student_and_label()
    losses = criterion(logits.log_softmax(-1), LENGTHS, label)
    junk = 10 * torch.randn(B, 3, V)
    wide = torch.cat([logits, junk], 1).log_softmax(-1)
    label_wide = label._replace(
        log_probs=torch.cat([label.log_probs, junk.log_softmax(-1)], 1),
        tokens=F.pad(label.tokens, (0, 2), value=-1),
    )
    assert torch.equal(losses, criterion(wide, LENGTHS, label_wide))


@every_criterion
def test_order_and_company_do_not_matter(name, conf) -> None:
    criterion = criteria.build(name, **conf)
    logits, label = student_and_label()
    log_probs = logits.log_softmax(-1)
    losses = criterion(log_probs, LENGTHS, label)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = PseudoLabel(*(field[order] for field in label))
    assert torch.equal(
        losses[order], criterion(log_probs[order], LENGTHS[order], shuffled)
    )
    alone = PseudoLabel(*(field[2:3] for field in label))
    one = criterion(log_probs[2:3], LENGTHS[2:3], alone)
    torch.testing.assert_close(one, losses[2:3], rtol=1e-6, atol=1e-6)


def degenerate(kind: str) -> PseudoLabel:
    """Make a label that real teachers produce when things go wrong."""
    blanks = torch.full((B, T, V), -1e4)
    blanks[..., 0] = 0.0
    label = make_label(blanks, LENGTHS)
    if kind == "too_long":
        tokens = torch.arange(T + 2).remainder(V - 1).add(1).expand(B, -1)
        label = label._replace(tokens=tokens, token_lengths=torch.full((B,), T + 2))
    if kind == "one_token":
        constant = torch.full((B, T, V), -1e4)
        constant[..., 2] = 0.0
        label = make_label(constant, LENGTHS)
    return label


@every_criterion
@pytest.mark.parametrize("kind", ["all_blank", "too_long", "one_token"])
def test_degenerate_labels_stay_finite(name, conf, kind) -> None:
    logits = torch.randn(B, T, V, requires_grad=True)
    losses = criteria.build(name, **conf)(
        logits.log_softmax(-1), LENGTHS, degenerate(kind)
    )
    losses.sum().backward()
    assert torch.isfinite(losses).all() and torch.isfinite(logits.grad).all()


@every_criterion
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, conf, dtype) -> None:
    criterion = criteria.build(name, **conf)
    logits, label = student_and_label()
    low = logits.log_softmax(-1).to(dtype)
    losses = criterion(low, LENGTHS, label)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, criterion(low.float(), LENGTHS, label))


@every_criterion
def test_gradcheck(name, conf) -> None:
    criterion = criteria.build(name, **conf)
    logits, label = student_and_label(torch.float64)

    def loss(x: torch.Tensor) -> torch.Tensor:
        return criterion(x.log_softmax(-1), LENGTHS, label)

    assert torch.autograd.gradcheck(loss, (logits,))


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


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_soft_ce_is_the_cross_entropy_over_all_alignments(temperature) -> None:
    frames, tokens = 4, 3
    student = make_log_probs(1, frames, tokens, torch.float64)
    teacher = make_log_probs(1, frames, tokens, torch.float64)
    softened = (teacher / temperature).log_softmax(-1)
    expected = -sum(
        path_log_prob(softened[0], path).exp() * path_log_prob(student[0], path)
        for path in all_paths(frames, tokens)
    )
    loss = criteria.soft_ce(student, torch.tensor([frames]), teacher, temperature)
    torch.testing.assert_close(loss[0], expected)


def test_soft_ce_gradient_is_student_minus_teacher() -> None:
    logits, label = student_and_label(torch.float64)
    criteria.soft_ce(logits.log_softmax(-1), LENGTHS, label.log_probs).sum().backward()
    difference = logits.detach().softmax(-1) - label.log_probs.exp()
    for row, expected, length in zip(logits.grad, difference, LENGTHS):
        torch.testing.assert_close(row[:length], expected[:length])


def test_soft_ce_of_a_sharp_teacher_is_the_loss_of_its_best_path() -> None:
    logits, label = student_and_label(torch.float64)
    log_probs = logits.log_softmax(-1)
    losses = criteria.soft_ce(log_probs, LENGTHS, label.log_probs, temperature=1e-4)
    best = label.log_probs.argmax(-1)
    picked = log_probs.gather(2, best.unsqueeze(2)).squeeze(2)
    expected = torch.stack([-row[:n].sum() for row, n in zip(picked, LENGTHS)])
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)


def test_soft_ce_takes_probabilities_of_exactly_zero() -> None:
    certain = torch.tensor([[[0.0, -math.inf]]])
    assert criteria.soft_ce(certain, torch.tensor([1]), certain).tolist() == [0.0]


def test_a_users_criterion_by_dotted_path() -> None:
    criterion = criteria.build(f"{__name__}:Mine", scale=3.0)
    _, label = student_and_label()
    assert criterion(label.log_probs, LENGTHS, label).tolist() == [3.0] * B


@pytest.mark.parametrize(
    "name, conf, message",
    [
        ("hard_ctx", {}, "Did you mean 'hard_ctc'"),
        ("nowhere.to.be:Found", {}, "cannot load"),
        (f"{__name__}:Missing", {}, "cannot load"),
        ("torch.nn:Linear", {}, "not a subclass"),
        ("soft_ce", {"temprature": 1.0}, "Did you mean 'temperature'"),
        ("soft_ce", {"temperature": 0.0}, "> 0"),
        ("soft_ce", {"temperature": math.nan}, "> 0"),
        ("hard_ctc", {"temperature": 1.0}, "unknown key"),
    ],
)
def test_bad_settings_are_refused(name, conf, message) -> None:
    with pytest.raises(ValueError, match=message):
        criteria.build(name, **conf)


def test_the_criterion_of_the_readme() -> None:
    readme = Path(__file__).resolve().parents[1] / "README.md"
    (block,) = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    scope: dict = {}
    exec(block, scope)
    logits, label = student_and_label(torch.float64)
    losses = scope["ReverseKL"]()(logits.log_softmax(-1), LENGTHS, label)
    for b, length in enumerate(LENGTHS):
        p, q = logits[b, :length].log_softmax(-1), label.log_probs[b, :length]
        torch.testing.assert_close(losses[b], (p.exp() * (p - q)).sum())
    same = label._replace(log_probs=logits.log_softmax(-1))
    nothing = scope["ReverseKL"]()(same.log_probs, LENGTHS, same)
    torch.testing.assert_close(nothing, torch.zeros_like(nothing))


class Unfinished(PLCriterion):
    """A user's criterion without a forward."""


def test_a_criterion_without_forward_is_refused() -> None:
    with pytest.raises(ValueError, match="abstract"):
        criteria.build(f"{__name__}:Unfinished")
