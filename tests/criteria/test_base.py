"""Every criterion: the generic properties, and the oracles by enumeration."""

import math
import re

import pytest
import torch
import torch.nn.functional as F

from espnet_softpl import criteria
from espnet_softpl.criteria import PLCriterion
from espnet_softpl.criteria.base import weighted_mean
from espnet_softpl.labels.pseudo_label import PseudoLabel
from tests import ROOT
from tests.conftest import make_label, make_log_probs, pick

SETTINGS = {
    "best_path_ce": [{}],
    "blend": [
        {},
        {"alpha": 0.2},
        {
            "parts": [
                {"criterion": "sampled_ctc", "weight": 0.5},
                {"criterion": "occupancy_ce", "criterion_conf": {"nbest": 2}},
                {"criterion": "consistency", "weight": 0.2},
                {"criterion": "soft_ctc", "weight": 0.0},
            ]
        },
    ],
    "consistency": [{}, {"labeled_weight": 0.2}],
    "hard_ctc": [{}, {"prior_scale": 0.5}],
    "masked_kl": [{}],
    "nbest_ctc": [{}, {"nbest": 1}, {"nbest": 3, "beam_size": 9, "temperature": 0.5}],
    "occupancy_ce": [
        {},
        {"nbest": 3},
        {"temperature": 2.0},
        {"nbest": 3, "network": True},
    ],
    "sampled_ctc": [{}, {"temperature": 0.5, "num_samples": 3}],
    "sampled_path_ce": [{}, {"temperature": 2.0, "num_samples": 3}],
    "soft_ce": [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0, "student_temperature": 2.0, "scale_by_square": True},
        {"blank": "drop"},
        {"blank": "symmetric", "window": 1},
    ],
    "soft_ctc": [{}, {"nbest": 1}, {"nbest": 6, "temperature": 2.0}],
    "viterbi_ce": [{}],
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


def evaluate(criterion: PLCriterion, *args) -> torch.Tensor:
    """Call a criterion from the same random state every time."""
    torch.manual_seed(7)
    return criterion(*args)


@every_criterion
def test_shape_gradients_and_no_gradient_to_the_teacher(name, conf) -> None:
    logits, label = student_and_label()
    teacher = label.log_probs.clone().requires_grad_(True)
    label = label._replace(log_probs=teacher)
    losses = criteria.build(name, **conf)(logits.log_softmax(-1), LENGTHS, label)
    assert losses.shape == (B,) and torch.isfinite(losses).all()
    assert losses.dtype == torch.float32
    losses.sum().backward()
    assert teacher.grad is None
    selects = conf.get("blank", "all") != "all"
    for row, length in zip(logits.grad, LENGTHS):
        assert selects or row[:length].abs().sum() > 0
        assert (row[length:] == 0).all()
    assert logits.grad.abs().sum() > 0


@every_criterion
def test_padding_is_invisible(name, conf) -> None:
    """What stands in it changes no bit; its size may only group a sum otherwise."""
    criterion = criteria.build(name, **conf)
    logits, label = student_and_label()
    losses = evaluate(criterion, logits.log_softmax(-1), LENGTHS, label)
    padded = []
    for _ in range(2):
        junk = 10 * torch.randn(B, 3, V)
        wide = torch.cat([logits, junk], 1).log_softmax(-1)
        label_wide = label._replace(
            log_probs=torch.cat([label.log_probs, junk.log_softmax(-1)], 1),
            tokens=F.pad(label.tokens, (0, 2), value=-1),
        )
        padded.append(evaluate(criterion, wide, LENGTHS, label_wide))
    assert torch.equal(*padded)
    torch.testing.assert_close(padded[0], losses, rtol=1e-6, atol=1e-6)


@every_criterion
def test_order_and_company_do_not_matter(name, conf) -> None:
    criterion = criteria.build(name, **conf)
    logits, label = student_and_label()
    log_probs = logits.log_softmax(-1)
    losses = evaluate(criterion, log_probs, LENGTHS, label)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = evaluate(criterion, log_probs[order], LENGTHS[order], pick(label, order))
    torch.testing.assert_close(shuffled, losses[order], rtol=1e-6, atol=1e-6)
    alone = slice(2, 3)
    one = evaluate(criterion, log_probs[alone], LENGTHS[alone], pick(label, alone))
    torch.testing.assert_close(one, losses[alone], rtol=1e-6, atol=1e-6)


@every_criterion
def test_weight_zero_removes_an_utterance_exactly(name, conf) -> None:
    criterion = criteria.build(name, **conf)
    logits, label = student_and_label()
    weight = torch.tensor([1.0, 0.0, 0.5, 1.0])
    losses = evaluate(criterion, logits.log_softmax(-1), LENGTHS, label)
    weighted_mean(losses, weight).backward()
    assert (logits.grad[1] == 0).all() and logits.grad[0].abs().sum() > 0


@every_criterion
def test_frames_of_weight_zero_cost_and_teach_nothing(name, conf) -> None:
    criterion = criteria.build(name, **conf)
    assert criterion.weighs_frames
    logits, label = student_and_label()
    whole = evaluate(criterion, logits.log_softmax(-1), LENGTHS, label)
    trust = torch.ones(B, T)
    same = label._replace(frame_weight=trust)
    torch.testing.assert_close(
        evaluate(criterion, logits.log_softmax(-1), LENGTHS, same), whole
    )
    trust[0, 2:5] = 0.0
    masked = label._replace(frame_weight=trust)
    losses = evaluate(criterion, logits.log_softmax(-1), LENGTHS, masked)
    losses.sum().backward()
    assert (logits.grad[0, 2:5] == 0).all()
    assert torch.isfinite(losses).all() and losses[0] < whole[0]
    torch.testing.assert_close(losses[1:], whole[1:])
    one_hot = torch.full((1, T, V), -1e4)
    one_hot[..., 2] = 0.0
    nothing = make_label(one_hot, LENGTHS[:1])
    nothing = nothing._replace(frame_weight=torch.zeros(1, T))
    loss = evaluate(criterion, logits[:1].log_softmax(-1), LENGTHS[:1], nothing)
    if name in FRAME_LEVEL:
        torch.testing.assert_close(loss, torch.zeros(1))


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
    losses = evaluate(criterion, low, LENGTHS, label)
    assert losses.dtype == torch.float32
    assert torch.equal(losses, evaluate(criterion, low.float(), LENGTHS, label))
    low_label = label._replace(log_probs=label.log_probs.to(dtype))
    assert torch.isfinite(evaluate(criterion, low, LENGTHS, low_label)).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@every_criterion
def test_a_gpu_computes_the_same(name, conf) -> None:
    criterion = criteria.build(name, **conf)
    logits, label = student_and_label()
    losses = evaluate(criterion, logits.log_softmax(-1), LENGTHS, label)
    (expected,) = torch.autograd.grad(losses.sum(), logits)
    there = label._replace(
        **{
            k: v.cuda()
            for k, v in label._asdict().items()
            if isinstance(v, torch.Tensor)
        }
    )
    log_probs = logits.cuda().log_softmax(-1)
    on_gpu = evaluate(criterion, log_probs, LENGTHS.cuda(), there)
    (gradient,) = torch.autograd.grad(on_gpu.sum(), logits)
    torch.testing.assert_close(on_gpu.cpu(), losses, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-4)


@every_criterion
def test_gradcheck(name, conf) -> None:
    """Central differences of all inputs, as copies of an utterance in one batch."""
    criterion = criteria.build(name, **conf)
    logits, label = student_and_label(torch.float64)
    losses = evaluate(criterion, logits.log_softmax(-1), LENGTHS, label)
    steps = 1e-6 * torch.eye(T * V, dtype=torch.float64).view(-1, T, V)
    for b in range(B):
        (gradient,) = torch.autograd.grad(losses[b], logits, retain_graph=True)
        copies = logits.detach()[b] + torch.cat([steps, -steps])  # (2 * T * V, T, V)
        rows = torch.full((len(copies),), b)
        args = (copies.log_softmax(-1), LENGTHS[rows], pick(label, rows))
        above, below = evaluate(criterion, *args).chunk(2)
        expected = torch.zeros_like(logits)  # Other utterances change nothing.
        expected[b] = ((above - below) / 2e-6).view(T, V)
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def one_hot_label(dtype=torch.float64) -> PseudoLabel:
    """Make a label of a teacher that is certain of every frame."""
    certain = torch.full((B, T, V), -torch.inf, dtype=dtype)
    best = make_log_probs(B, T, V, dtype).argmax(-1, keepdim=True)
    return make_label(certain.scatter(2, best, 0.0), LENGTHS)


FRAME_LEVEL = {
    "best_path_ce": {},
    "viterbi_ce": {},
    "sampled_path_ce": {"num_samples": 3},
    "soft_ce": {},
    "occupancy_ce": {},
    "consistency": {},
    "masked_kl": {},
}
TRANSCRIPT_LEVEL = {
    "hard_ctc": {},
    "sampled_ctc": {"num_samples": 3},
    "nbest_ctc": {},
    "soft_ctc": {},
}


@pytest.mark.parametrize("group", [FRAME_LEVEL, TRANSCRIPT_LEVEL])
def test_a_certain_teacher_makes_all_of_one_level_equal(group) -> None:
    logits, _ = student_and_label(torch.float64)
    label = one_hot_label()
    losses = [
        criteria.build(name, **conf)(logits.log_softmax(-1), LENGTHS, label)
        for name, conf in group.items()
    ]
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], rtol=1e-6, atol=1e-6)


def test_the_levels_of_the_limits_are_all_criteria() -> None:
    assert {*FRAME_LEVEL, *TRANSCRIPT_LEVEL, "blend"} == set(criteria.available())


@pytest.mark.parametrize(
    "name, conf, limit",
    [
        ("soft_ce", {"temperature": 1e-4}, "best_path_ce"),
        ("sampled_path_ce", {"temperature": 1e-4}, "best_path_ce"),
        ("occupancy_ce", {"temperature": 1e-4}, "viterbi_ce"),
        ("viterbi_ce", {}, "best_path_ce"),
        ("sampled_ctc", {"temperature": 1e-4, "num_samples": 2}, "hard_ctc"),
        ("nbest_ctc", {"temperature": 1e-4}, "hard_ctc"),
        ("soft_ctc", {"temperature": 1e-4}, "hard_ctc"),
        ("nbest_ctc", {"nbest": 1}, "hard_ctc"),
        ("soft_ctc", {"nbest": 1}, "hard_ctc"),
        ("blend", {"alpha": 1.0}, "hard_ctc"),
        ("blend", {"alpha": 0.0}, "soft_ce"),
        ("soft_ce", {"blank": "symmetric", "window": T}, "soft_ce"),
    ],
)
def test_limits(name, conf, limit) -> None:
    logits, label = student_and_label(torch.float64)
    log_probs = logits.log_softmax(-1)
    losses = criteria.build(name, **conf)(log_probs, LENGTHS, label)
    expected = criteria.build(limit)(log_probs, LENGTHS, label)
    kept = label.log_probs.argmax(-1).ne(0) & (torch.arange(T) < LENGTHS[:, None])
    rows = kept.any(1) if "blank" in conf else torch.ones(B, dtype=torch.bool)
    torch.testing.assert_close(losses[rows], expected[rows], rtol=1e-6, atol=1e-6)


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
        ("soft_ce", {"blank": "none"}, "one of all, drop, symmetric"),
        ("soft_ce", {"window": -1}, "window must be an integer >= 0"),
        ("soft_ce", {"student_temperature": True}, "> 0"),
        ("hard_ctc", {"temperature": 1.0}, "unknown key"),
        ("sampled_ctc", {"num_samples": 0}, "integer >= 1"),
        ("nbest_ctc", {"nbest": 4, "beam_size": 3}, "beam_size must be .* >= 4"),
        ("consistency", {"labeled_weight": -1}, ">= 0"),
        ("blend", {"alpha": 1.5}, r"in \[0, 1\]"),
        ("blend", {"alpha": 0.5, "parts": []}, "not both"),
        ("blend", {"parts": []}, "at least one"),
        ("blend", {"parts": [{"name": "hard_ctc"}]}, "keys criterion"),
        ("blend", {"parts": [{"criterion": "hard_ctc", "wait": 1}]}, "wait"),
        ("blend", {"parts": [{"criterion": "hard"}]}, "Did you mean 'hard_ctc'"),
    ],
)
def test_bad_settings_are_refused(name, conf, message) -> None:
    with pytest.raises(ValueError, match=message):
        criteria.build(name, **conf)


def test_the_criterion_of_the_readme() -> None:
    readme = ROOT / "README.md"
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


def tiny(frames: int = 4, tokens: int = 3) -> tuple[torch.Tensor, PseudoLabel]:
    """Draw a student and a label that are small enough to enumerate."""
    label = make_log_probs(1, frames, tokens, torch.float64)
    student = make_log_probs(1, frames, tokens, torch.float64)
    return student, make_label(label, torch.tensor([frames]))
