"""Filters: the generic properties, and oracles in plain loops."""

import io
import itertools
import math

import pytest
import torch

from espnet_softpl import filters
from espnet_softpl.ctc import greedy
from espnet_softpl.filters import Candidate
from espnet_softpl.labels.pseudo_label import PseudoLabel
from tests.conftest import make_label, make_log_probs, pick

# Settings with which the batch of `make_candidate` is partly kept.
SETTINGS = {
    "beam_agreement": [{}, {"beam_size": 2, "max_distance": 0.3}],
    "confidence": [{"threshold": 0.6}, {"max_error": 0.3, "window": 60}],
    "dropout_agreement": [{"max_distance": 0.6}, {"samples": 1, "max_distance": 0.4}],
    "feasible": [{"slack": 2}, {"slack": 3}],
    "rate": [
        {"min_ratio": 0.8},
        {"max_ratio": 1.0},
        {"min_ratio": 0.75, "max_ratio": 1.05},
    ],
    "tokens": [{"min_tokens": 4}, {"min_tokens": 0, "max_tokens": 4}],
}
CASES = [(name, conf) for name, confs in SETTINGS.items() for conf in confs]
every_filter = pytest.mark.parametrize("name, conf", CASES)

B, T, V = 16, 12, 5
LENGTHS = torch.tensor([12, 11, 10, 9, 8, 7, 6, 5, 12, 10, 9, 8, 4, 3, 2, 1])
RATE = 0.007  # Tokens per sample; LENGTHS are of 100 samples each.


class Mine(filters.Filter):
    """A user's own filter, named by dotted path: trusts as it is told to."""

    def __init__(self, factor: list[float]) -> None:
        self.factor = factor
        self.calls = 0

    def __call__(self, candidate: Candidate) -> torch.Tensor:
        """Return the factor, once more."""
        self.calls += 1
        return torch.tensor(self.factor)


class Relabel:
    """A teacher with dropout: hands out labels in a circle, and counts."""

    def __init__(self, labels: list[PseudoLabel]) -> None:
        self.labels = labels
        self.calls = 0

    def __call__(self) -> PseudoLabel:
        self.calls += 1
        return self.labels[(self.calls - 1) % len(self.labels)]


def make_candidate(dtype=torch.float32, lengths: torch.Tensor = LENGTHS) -> Candidate:
    """Draw labels, and three noisy copies of them."""
    log_probs = make_log_probs(len(lengths), int(lengths.max()), V, torch.float64)
    copies = [
        (log_probs + 0.8 * torch.randn_like(log_probs)).log_softmax(-1)
        for _ in range(3)
    ]
    label, *noisy = (make_label(x.to(dtype), lengths) for x in (log_probs, *copies))
    return Candidate(label, 100 * lengths, RATE, Relabel(noisy))


def make_labeled(size: int, frames: int = T) -> tuple[torch.Tensor, ...]:
    """Draw a labeled batch: posteriors, lengths, and nearly the right transcripts."""
    lengths = torch.randint(1, frames + 1, (size,))
    log_probs = make_log_probs(size, frames, V)
    tokens, token_lengths = greedy(log_probs + torch.randn_like(log_probs), lengths)
    return log_probs, lengths, tokens, token_lengths


def build(name: str, conf: dict) -> filters.Filter:
    """Build a filter; one that learns from labeled data has seen some."""
    judge = filters.build(name, **conf)
    if judge.needs_labeled:
        state = torch.random.get_rng_state()
        torch.manual_seed(1)
        judge.observe(*make_labeled(100))
        torch.random.set_rng_state(state)
    return judge


def rows(candidate: Candidate, index: torch.Tensor | slice) -> Candidate:
    """Take some utterances of a candidate."""
    return candidate._replace(
        label=pick(candidate.label, index),
        speech_lengths=candidate.speech_lengths[index],
        relabel=Relabel([pick(label, index) for label in candidate.relabel.labels]),
    )


def padded(label: PseudoLabel, frames: int) -> PseudoLabel:
    """Pad a label to more frames and more tokens, with what could be mistaken."""
    size = label.log_probs.shape
    wide = torch.cat([label.log_probs, make_log_probs(size[0], frames, size[2])], 1)
    for b, length in enumerate(label.lengths):
        wide[b, length:] = (50 * wide[b, length:]).log_softmax(-1)
    more = torch.full((size[0], 2), -1)
    return label._replace(log_probs=wide, tokens=torch.cat([label.tokens, more], 1))


def words(label: PseudoLabel) -> list[list[int]]:
    """Return the transcripts as lists."""
    pairs = zip(label.tokens.tolist(), label.token_lengths.tolist(), strict=True)
    return [row[:length] for row, length in pairs]


def test_the_table_covers_every_filter() -> None:
    assert set(SETTINGS) == set(filters.available())


@every_filter
def test_factors_and_inputs_as_they_were(name, conf) -> None:
    candidate = make_candidate()
    label = candidate.label
    label = label._replace(log_probs=label.log_probs.clone().requires_grad_(True))
    tensors = [field for field in label if isinstance(field, torch.Tensor)]
    copies = [field.clone() for field in tensors]
    judge = build(name, conf)
    factor = judge(candidate._replace(label=label))
    assert not factor.requires_grad
    assert factor.shape == (B,) and factor.dtype == torch.float32
    assert set(factor.tolist()) == {0.0, 1.0}  # Some are dropped, and some kept.
    for field, copy in zip(tensors, copies):
        assert torch.equal(field, copy)


@every_filter
@pytest.mark.parametrize("extra", [1, 40])
def test_padding_is_invisible(name, conf, extra) -> None:
    candidate = make_candidate()
    noisy = [padded(label, extra) for label in candidate.relabel.labels]
    wide = candidate._replace(
        label=padded(candidate.label, extra), relabel=Relabel(noisy)
    )
    assert torch.equal(build(name, conf)(candidate), build(name, conf)(wide))


@every_filter
def test_company_does_not_matter(name, conf) -> None:
    candidate = make_candidate()
    factor = build(name, conf)(candidate)
    order = torch.randperm(B)
    assert torch.equal(build(name, conf)(rows(candidate, order)), factor[order])
    for b, length in enumerate(LENGTHS.tolist()):
        alone = rows(candidate, slice(b, b + 1))
        cut = alone.label.log_probs[:, :length]
        alone = alone._replace(label=make_label(cut, alone.label.lengths))
        assert float(build(name, conf)(alone)) == float(factor[b])


@every_filter
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, conf, dtype) -> None:
    low = make_candidate(dtype)
    assert low.label.weight.dtype == dtype
    high = low.label._replace(
        log_probs=low.label.log_probs.float(), weight=low.label.weight.float()
    )
    factor = build(name, conf)(low)
    assert factor.dtype == dtype
    noisy = low.relabel.labels
    high = low._replace(label=high, relabel=Relabel(noisy))
    assert torch.equal(factor.float(), build(name, conf)(high))
    low = low._replace(relabel=Relabel(noisy))
    high = high._replace(relabel=Relabel(noisy))
    judge, same = filters.build(name, **conf), filters.build(name, **conf)
    labeled = make_labeled(80)
    judge.observe(labeled[0].to(dtype), *labeled[1:])
    same.observe(labeled[0].to(dtype).float(), *labeled[1:])
    assert torch.equal(judge(low).float(), same(high))


@every_filter
@pytest.mark.parametrize("kind", ["all_blank", "one_hot", "one_frame", "no_frames"])
def test_degenerate_labels(name, conf, kind) -> None:
    lengths = torch.tensor([4, 2, 1])
    log_probs = torch.full((3, 4, V), -math.inf)
    if kind == "one_hot":
        log_probs.scatter_(2, torch.randint(V, (3, 4, 1)), 0.0)
    elif kind == "one_frame":
        log_probs, lengths = make_log_probs(3, 1, V), torch.ones_like(lengths)
    else:
        log_probs[..., 0] = 0.0
    if kind == "no_frames":
        lengths = torch.tensor([4, 0, 0])
    label = make_label(log_probs, lengths)
    candidate = Candidate(label, 100 * lengths, RATE, Relabel([label]))
    factor = build(name, conf)(candidate)
    assert factor.shape == (3,) and set(factor.tolist()) <= {0.0, 1.0}
    if name.endswith("agreement"):
        assert factor.tolist() == [1.0, 1.0, 1.0] or kind == "one_frame"


@every_filter
def test_state_resumes_bit_for_bit(name, conf) -> None:
    one, resumed = build(name, conf), filters.build(name, **conf)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(5):
        candidate, labeled = make_candidate(), make_labeled(7)
        again = candidate._replace(relabel=Relabel(candidate.relabel.labels))
        assert torch.equal(one(candidate), resumed(again))
        one.observe(*labeled)
        resumed.observe(*labeled)
        for key, value in one.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[key])


@every_filter
def test_attributes_tell_what_is_used(name, conf) -> None:
    judge = build(name, conf)
    candidate = make_candidate()
    before = judge(candidate)
    rates = [RATE * factor for factor in (0.3, 3.0)]
    others = []
    for rate in rates:
        candidate.relabel.calls = 0
        others.append(judge(candidate._replace(labeled_tokens_per_sample=rate)))
    assert judge.needs_rate == any(not torch.equal(before, f) for f in others)
    log_probs, lengths, tokens, token_lengths = make_labeled(100)
    judge.observe(log_probs, lengths, torch.full_like(tokens, V), token_lengths)
    candidate.relabel.calls = 0
    assert judge.needs_labeled == (not torch.equal(judge(candidate), before))
    assert candidate.relabel.calls in (0, conf.get("samples", 3))
    assert bool(candidate.relabel.calls) == (name == "dropout_agreement")


def test_a_users_filter_by_dotted_path() -> None:
    mine = filters.build(f"{__name__}:Mine", factor=[0.5])
    assert mine(make_candidate(lengths=torch.tensor([3]))).tolist() == [0.5]
    assert mine.state_dict() == {} and not mine.needs_rate and not mine.needs_labeled


@pytest.mark.parametrize(
    "name, conf, message",
    [
        ("all", {}, "pl_filter: unknown filter.*tokens"),
        ("confidance", {}, "Did you mean 'confidence'"),
        ("tokens", {"min_token": 1}, "pl_filter_conf: unknown key"),
        *(
            ("tokens", {"min_tokens": bad}, "min_tokens must be an integer >= 0")
            for bad in (-1, 1.5, True)
        ),
        ("tokens", {"min_tokens": 3, "max_tokens": 2}, "max_tokens .* >= 3"),
        ("rate", {}, "min_ratio or max_ratio"),
        ("rate", {"min_ratio": -0.1}, "min_ratio .* >= 0"),
        ("rate", {"max_ratio": 0.0}, "max_ratio .* > 0"),
        ("rate", {"max_ratio": math.nan}, "max_ratio .* > 0"),
        ("rate", {"min_ratio": 2.0, "max_ratio": 1.0}, "at least min_ratio=2.0"),
        ("feasible", {"slack": -1}, "slack must be an integer >= 0"),
        ("confidence", {}, "exactly one of threshold and max_error"),
        ("confidence", {"threshold": 0.5, "max_error": 0.5}, "exactly one"),
        ("confidence", {"threshold": 1.1}, "threshold .* in \\[0, 1\\]"),
        ("confidence", {"max_error": 0.0}, "max_error .* in \\(0, 1\\]"),
        ("confidence", {"max_error": 1.1}, "max_error .* in \\(0, 1\\]"),
        ("confidence", {"max_error": "0.1"}, "max_error .* in \\(0, 1\\]"),
        ("confidence", {"max_error": 0.1, "window": 0}, "window .* >= 1"),
        ("dropout_agreement", {"samples": 0}, "samples must be an integer >= 1"),
        ("dropout_agreement", {"max_distance": -0.1}, "max_distance .* >= 0"),
        ("beam_agreement", {"beam_size": 0}, "beam_size must be an integer >= 1"),
        ("beam_agreement", {"max_distance": math.inf}, "max_distance .* >= 0"),
    ],
)
def test_bad_settings_are_refused(name, conf, message) -> None:
    with pytest.raises(ValueError, match=message):
        filters.build(name, **conf)


# One filter after the other.


def test_reasons_and_weights_by_hand() -> None:
    lengths = torch.full((6,), 3)
    candidate = make_candidate(lengths=lengths)
    own = torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0, 1.0])
    label = candidate.label._replace(weight=own)
    chain = [
        ("first", Mine([1.0, 0.5, 1.0, 0.0, 1.0, 0.25])),
        ("second", Mine([0.5, 0.5, 0.0, 0.0, 0.0, math.nan])),
        ("third", Mine([1.0, 0.0, 1.0, math.nan, 0.0, 1.0])),
    ]
    weight, reason = filters.apply(chain, candidate._replace(label=label))
    assert reason.dtype == torch.int64
    assert reason.tolist() == [-1, 2, 3, 0, 1, -1]
    assert weight[:5].tolist() == [0.5, 0.0, 0.0, 0.0, 0.0]
    assert weight[5].isnan()  # A teacher that says NaN does not go unnoticed.
    assert torch.equal(label.weight, own)


def test_no_filter_and_nothing_left() -> None:
    candidate = make_candidate(lengths=torch.full((2,), 3))
    weight, reason = filters.apply([], candidate)
    assert weight.tolist() == [1, 1] and reason.tolist() == [-1, -1]
    dropped = candidate.label._replace(weight=torch.zeros(2))
    weight, reason = filters.apply([], candidate._replace(label=dropped))
    assert weight.tolist() == [0, 0] and reason.tolist() == [0, 0]

    late = Mine([1.0, 1.0])
    some, rest = ("a", Mine([0.0, 1.0])), ("b", Mine([1.0, 0.0]))
    weight, reason = filters.apply([some, rest, ("late", late)], candidate)
    assert late.calls == 0
    assert weight.tolist() == [0, 0] and reason.tolist() == [0, 1]
    filters.apply([some, ("late", late)], candidate)
    assert late.calls == 1


def test_a_users_factor_has_no_gradient() -> None:
    class Soft(filters.Filter):
        def __call__(self, candidate: Candidate) -> torch.Tensor:
            return candidate.label.log_probs.exp()[:, 0, 0]

    candidate = make_candidate()
    log_probs = candidate.label.log_probs.clone().requires_grad_(True)
    label = candidate.label._replace(log_probs=log_probs)
    weight, reason = filters.apply([("soft", Soft())], candidate._replace(label=label))
    assert not weight.requires_grad and reason.tolist() == [-1] * B
    assert torch.equal(weight, log_probs.detach().exp()[:, 0, 0])


def test_a_weight_that_vanishes_has_a_reason() -> None:
    candidate = make_candidate(lengths=torch.tensor([3]))
    tiny = ("tiny", Mine([1e-30]))
    weight, reason = filters.apply([tiny, tiny], candidate)
    assert weight.tolist() == [0.0] and reason.tolist() == [1]


def test_bool_factors_and_the_dtype_of_the_weight() -> None:
    candidate = make_candidate(torch.bfloat16, torch.tensor([3, 3]))
    weight, reason = filters.apply([("bool", Mine([True, False]))], candidate)
    assert weight.dtype == torch.bfloat16 and weight.tolist() == [1, 0]
    assert reason.tolist() == [-1, 0]


@pytest.mark.parametrize("factor", [[1.0], [[1.0], [1.0]]])
def test_a_factor_of_another_shape_is_refused(factor) -> None:
    candidate = make_candidate(lengths=torch.tensor([3, 3]))
    with pytest.raises(ValueError, match="'mine' returned a factor of shape"):
        filters.apply([("mine", Mine(factor))], candidate)


@pytest.mark.parametrize(
    "order", [*itertools.permutations(["tokens", "rate", "feasible"])]
)
def test_the_order_changes_reasons_and_not_weights(order) -> None:
    candidate = make_candidate()
    chain = [(name, build(name, SETTINGS[name][0])) for name in order]
    weight, reason = filters.apply(chain, candidate)
    alone = torch.stack([judge(candidate) for _, judge in chain])
    assert torch.equal(weight, alone.prod(0))
    for b, found in enumerate(reason.tolist()):
        dropping = [i for i in range(3) if alone[i, b] == 0]
        assert found == (dropping[0] if dropping else -1)


# What each filter keeps.
