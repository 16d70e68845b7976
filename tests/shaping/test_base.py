"""Shaping: the generic properties, and oracles in plain loops."""

import io
import itertools
import math

import pytest
import torch

from espnet_softpl import shaping
from espnet_softpl.ctc import greedy
from espnet_softpl.ctc.sampling import sample_paths
from espnet_softpl.labels.confidence import utterance_confidence
from espnet_softpl.labels.prior import FLOOR, RunningMean
from espnet_softpl.labels.pseudo_label import PseudoLabel
from tests.conftest import (
    all_paths,
    make_label,
    make_log_probs,
    path_log_prob,
    reference_collapse,
)

SETTINGS = {
    "align": [{}, {"decay": 0.5, "power": 0.5}],
    "blank": [{"bias": -2.0}, {"bias": 0.5, "prior_scale": 0.7}, {"prior_scale": 1.0}],
    "frame_confidence": [{}, {"threshold": 0.5}],
    "sample": [{}, {"temperature": 1.0}],
    "sharpen": [{}, {"temperature": 2.0}],
    "token_confidence": [{}, {"power": 2.0, "threshold": 0.7}],
    "utterance_confidence": [{}, {"power": 3.0, "threshold": 0.6}],
}
CASES = [(name, conf) for name, confs in SETTINGS.items() for conf in confs]
_every_case = pytest.mark.parametrize("name, conf", CASES)


def every_shaping(test):
    """Run a test for every shaping, with the same draws at every call."""
    return pytest.mark.usefixtures("same_draws")(_every_case(test))


@pytest.fixture
def same_draws(monkeypatch) -> None:
    def seeded(*args):
        torch.manual_seed(7)
        return sample_paths(*args)

    monkeypatch.setattr("espnet_softpl.shaping.sample.sample_paths", seeded)


B, T, V = 4, 9, 5
LENGTHS = torch.tensor([9, 7, 4, 1])
PRIOR = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0])


class Mine(shaping.Shaping):
    """A user's own shaping, named by dotted path."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, label: PseudoLabel) -> PseudoLabel:
        """Scale the weights."""
        return label._replace(weight=self.factor * label.weight)


def complete(label: PseudoLabel) -> PseudoLabel:
    """Give a label weights that are not 1, frame weights and a prior."""
    size = label.log_probs.shape[:2]
    return label._replace(
        weight=0.5 + torch.rand(size[0]),
        frame_weight=torch.rand(size),
        prior=PRIOR,
    )


def teacher_label(dtype=torch.float32) -> PseudoLabel:
    """Draw a complete label of a teacher that is neither sure nor flat."""
    return complete(make_label(make_log_probs(B, T, V, dtype), LENGTHS))


def given(label: PseudoLabel) -> dict[str, torch.Tensor]:
    """Return the fields that are not None."""
    return {name: f for name, f in label._asdict().items() if f is not None}


def rows(label: PseudoLabel, index: torch.Tensor) -> PseudoLabel:
    """Pick utterances of a label; the prior belongs to all of them."""
    return label._replace(
        **{n: f[index] for n, f in given(label).items() if n != "prior"}
    )


def test_the_table_covers_every_shaping() -> None:
    assert set(SETTINGS) == set(shaping.available())


@every_shaping
def test_shapes_no_gradient_and_inputs_as_they_were(name, conf) -> None:
    label = teacher_label()
    label = label._replace(log_probs=label.log_probs.clone().requires_grad_(True))
    copies = {name: field.clone() for name, field in given(label).items()}
    shaped = shaping.build(name, **conf)(label)
    changed = {n: f for n, f in given(shaped).items() if f is not given(label)[n]}
    assert changed
    for field, tensor in changed.items():
        assert not tensor.requires_grad
        if field != "tokens":
            assert tensor.shape == copies[field].shape
    for field, copy in copies.items():
        assert torch.equal(getattr(label, field), copy)
    assert shaped.tokens.shape == (B, int(shaped.token_lengths.max()))
    totals = shaped.log_probs.detach().logsumexp(-1)
    torch.testing.assert_close(totals, torch.zeros(B, T), rtol=0.0, atol=1e-5)


@every_shaping
@pytest.mark.parametrize("extra", [3, 200])
def test_padding_is_invisible_bit_for_bit(name, conf, extra) -> None:
    label = teacher_label()
    wide = label._replace(
        log_probs=torch.cat([label.log_probs, make_log_probs(B, extra, V)], 1),
        frame_weight=torch.cat([label.frame_weight, torch.rand(B, extra)], 1),
    )
    # Padding that repeats the last token, surely, must not join its run.
    wide.log_probs[2, 4] = (50 * label.log_probs[2, 3]).log_softmax(-1)
    one, two = shaping.build(name, **conf)(label), shaping.build(name, **conf)(wide)
    assert torch.equal(one.tokens, two.tokens)
    assert torch.equal(one.token_lengths, two.token_lengths)
    assert torch.equal(one.weight, two.weight)
    for b, length in enumerate(LENGTHS):
        assert torch.equal(one.log_probs[b, :length], two.log_probs[b, :length])
        assert torch.equal(one.frame_weight[b, :length], two.frame_weight[b, :length])
        if shaping.build(name, **conf).sets_frame_weight:
            assert (two.frame_weight[b, length:] == 0).all()


@every_shaping
def test_order_does_not_matter(name, conf) -> None:
    label = teacher_label()
    order = torch.tensor([2, 0, 3, 1])
    shaped = rows(shaping.build(name, **conf)(label), order)
    shuffled = shaping.build(name, **conf)(rows(label, order))
    for field in given(label):
        one, two = getattr(shaped, field), getattr(shuffled, field)
        if name == "align":
            # The mean of the batch is summed in another order.
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
        else:
            assert torch.equal(one, two)


@every_shaping
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, conf, dtype) -> None:
    label = teacher_label()
    low = label._replace(log_probs=label.log_probs.to(dtype))
    high = low._replace(log_probs=low.log_probs.float())
    one, two = shaping.build(name, **conf)(low), shaping.build(name, **conf)(high)
    for field, tensor in given(one).items():
        if tensor is getattr(low, field):
            continue
        assert tensor.dtype == getattr(two, field).dtype
        assert torch.equal(tensor, getattr(two, field))
        assert torch.isfinite(tensor).all()


@every_shaping
@pytest.mark.parametrize("kind", ["all_blank", "one_token", "one_hot", "one_frame"])
def test_degenerate_teachers_stay_finite(name, conf, kind) -> None:
    log_probs = torch.full((B, T, V), -1e4)
    log_probs[..., 2 if kind == "one_token" else 0] = 0.0
    lengths = LENGTHS
    if kind == "one_hot":
        path = torch.randint(V, (B, T, 1))
        log_probs = torch.full((B, T, V), -math.inf).scatter(2, path, 0.0)
    if kind == "one_frame":
        log_probs, lengths = make_log_probs(B, 1, V), torch.ones_like(LENGTHS)
    label = complete(make_label(log_probs, lengths))
    shaped = shaping.build(name, **conf)(label)
    assert (shaped.log_probs <= 0).all()  # False for NaN.
    assert torch.isfinite(shaped.log_probs.amax(-1)).all()
    assert torch.isfinite(shaped.weight).all() and (shaped.weight >= 0).all()
    assert ((shaped.frame_weight >= 0) & (shaped.frame_weight <= 1)).all()


@every_shaping
def test_attributes_tell_what_is_used_and_set(name, conf) -> None:
    shaped = shaping.build(name, **conf)
    label = teacher_label()._replace(frame_weight=None)
    out = shaped(label)
    assert (out.frame_weight is not None) == shaped.sets_frame_weight
    other = shaping.build(name, **conf)(label._replace(prior=PRIOR.flip(0)))
    same = all(
        torch.equal(out_field, given(other)[field])
        for field, out_field in given(out).items()
        if field != "prior" and out_field.shape == given(other)[field].shape
    )
    assert same != shaped.needs_prior


@every_shaping
def test_transcripts_are_read_again(name, conf) -> None:
    label = teacher_label()
    if name == "sample":  # Its transcripts are not the greedy ones.
        return
    shaped = shaping.build(name, **conf)(label)
    tokens, token_lengths = greedy(shaped.log_probs, LENGTHS)
    assert torch.equal(shaped.tokens, tokens)
    assert torch.equal(shaped.token_lengths, token_lengths)


@every_shaping
def test_state_resumes_bit_for_bit(name, conf) -> None:
    one, resumed = shaping.build(name, **conf), shaping.build(name, **conf)
    one(teacher_label())
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    label = teacher_label()
    expected, shaped = one(label), resumed(label)
    for field, tensor in given(expected).items():
        assert torch.equal(tensor, getattr(shaped, field))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_sharpen_frame_by_frame(temperature) -> None:
    label = teacher_label(torch.float64)
    shaped = shaping.build("sharpen", temperature=temperature)(label)
    for b, t in itertools.product(range(B), range(T)):
        powers = [math.exp(x) ** (1 / temperature) for x in label.log_probs[b, t]]
        expected = torch.tensor(powers, dtype=torch.float64) / sum(powers)
        torch.testing.assert_close(shaped.log_probs[b, t].exp(), expected)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_align_token_by_token(power) -> None:
    aligner, running = shaping.build("align", power=power), RunningMean(0.99)
    wanted = [max(q, FLOOR) for q in PRIOR.tolist()]
    for _ in range(3):
        label = teacher_label(torch.float64)
        running.update(label.log_probs, LENGTHS)
        mean = [max(m, FLOOR) for m in running.value.tolist()]
        shaped = aligner(label)
        ratios = [
            min(max(q / sum(wanted) / (m / sum(mean)), 0.1), 10.0)
            for q, m in zip(wanted, mean)
        ]
        for b, t in itertools.product(range(B), range(T)):
            scores = [
                math.exp(x) * ratio**power
                for x, ratio in zip(label.log_probs[b, t], ratios)
            ]
            expected = torch.tensor(scores, dtype=torch.float64) / sum(scores)
            torch.testing.assert_close(
                shaped.log_probs[b, t].exp(), expected, rtol=1e-5, atol=1e-7
            )


def test_align_moves_the_mean_toward_the_prior() -> None:
    log_probs = make_log_probs(8, 50, V)
    lengths = torch.full((8,), 50)
    prior = torch.tensor([0.4, 0.3, 0.1, 0.1, 0.1])
    label = make_label(log_probs, lengths)._replace(prior=prior)
    shaped = shaping.build("align")(label)
    before = log_probs.exp().mean((0, 1))
    after = shaped.log_probs.exp().mean((0, 1))
    assert (after - prior).abs().sum() < 0.5 * (before - prior).abs().sum()


def test_align_watches_while_the_prior_is_unknown() -> None:
    early, late = teacher_label(), teacher_label()
    aligner, fresh = shaping.build("align"), shaping.build("align")
    assert aligner(early._replace(prior=None)) == early._replace(prior=None)
    both = RunningMean(0.99)
    both.update(early.log_probs, LENGTHS)
    both.update(late.log_probs, LENGTHS)
    shaped = aligner(late)
    assert torch.equal(aligner.mean.value, both.value)
    assert not torch.equal(shaped.log_probs, fresh(late).log_probs)


def test_align_leaves_tokens_alone_that_nobody_has_seen() -> None:
    log_probs = torch.full((1, 2, 3), -math.inf)
    log_probs[..., :2] = math.log(0.5)
    prior = torch.tensor([0.5, 0.5, 0.0])
    label = make_label(log_probs, torch.tensor([2]))._replace(prior=prior)
    shaped = shaping.build("align")(label)
    torch.testing.assert_close(shaped.log_probs, log_probs)


@pytest.mark.parametrize("bias", [-3.0, 0.0, 2.0])
@pytest.mark.parametrize("scale", [0.0, 0.7])
def test_blank_frame_by_frame(bias, scale) -> None:
    label = teacher_label(torch.float64)
    shaped = shaping.build("blank", bias=bias, prior_scale=scale)(label)
    prior = [max(q, FLOOR) for q in PRIOR.tolist()]
    share = prior[0] / sum(prior)
    factor = math.exp(bias) / (share / (1.0 - share)) ** scale
    for b, t in itertools.product(range(B), range(T)):
        scores = [math.exp(x) for x in label.log_probs[b, t]]
        scores[0] *= factor
        expected = torch.tensor(scores, dtype=torch.float64) / sum(scores)
        torch.testing.assert_close(
            shaped.log_probs[b, t].exp(), expected, rtol=1e-6, atol=1e-9
        )


def test_a_blank_bias_below_0_says_more_tokens() -> None:
    log_probs = make_log_probs(1, 6, V)
    log_probs[..., 0] += 8.0
    label = make_label(log_probs.log_softmax(-1), torch.tensor([6]))
    assert label.token_lengths.tolist() == [0]
    shaped = shaping.build("blank", bias=-30.0)(label)
    path = tuple(log_probs[0, :, 1:].argmax(-1).add(1).tolist())
    assert tuple(shaped.tokens[0].tolist()) == reference_collapse(path)


def test_blank_without_a_prior_has_its_bias() -> None:
    label = teacher_label()._replace(prior=None)
    one = shaping.build("blank", bias=1.0, prior_scale=0.5)(label)
    two = shaping.build("blank", bias=1.0)(label)
    assert torch.equal(one.log_probs, two.log_probs)


def trusted(confidence: float, power: float, threshold: float) -> float:
    """Weigh one number."""
    return confidence**power if confidence >= threshold else 0.0


def runs(log_probs: torch.Tensor) -> list[tuple[int, float, int]]:
    """List token, highest posterior and size of each run of a (T, V) best path."""
    frames = [(int(row.argmax()), float(row.max().exp())) for row in log_probs]
    groups = itertools.groupby(frames, key=lambda frame: frame[0])
    members = [(token, [p for _, p in group]) for token, group in groups]
    return [(token, max(probs), len(probs)) for token, probs in members]


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.8, 1.0])
def test_frame_confidence_frame_by_frame(threshold) -> None:
    label = teacher_label(torch.float64)
    shaped = shaping.build("frame_confidence", threshold=threshold)(label)
    for b, length in enumerate(LENGTHS):
        for t in range(length):
            sure = max(math.exp(x) for x in label.log_probs[b, t]) >= threshold
            expected = float(label.frame_weight[b, t]) * sure
            assert float(shaped.frame_weight[b, t]) == pytest.approx(expected)


@pytest.mark.parametrize("power, threshold", [(1.0, 0.0), (2.0, 0.7), (0.0, 0.8)])
def test_token_confidence_run_by_run(power, threshold) -> None:
    lengths = torch.tensor([40, 33, 2, 1])
    # Two tokens and blank: runs of several frames.
    log_probs = make_log_probs(B, 40, 3, torch.float64)
    label = make_label(log_probs, lengths)
    conf = {"power": power, "threshold": threshold}
    shaped = shaping.build("token_confidence", **conf)(label)
    for b, length in enumerate(lengths):
        parts = runs(log_probs[b, :length])
        assert b or any(size > 1 for _, _, size in parts)
        expected = [
            weight
            for _, highest, size in parts
            for weight in [trusted(highest, power, threshold)] * size
        ]
        assert shaped.frame_weight[b, :length].tolist() == pytest.approx(expected)


@pytest.mark.parametrize("power, threshold", [(1.0, 0.0), (2.0, 0.7), (0.0, 0.6)])
def test_utterance_confidence_utterance_by_utterance(power, threshold) -> None:
    label = teacher_label(torch.float64)
    label.log_probs[2] = torch.tensor([0.7, 0.1, 0.1, 0.05, 0.05]).log()
    conf = {"power": power, "threshold": threshold}
    shaped = shaping.build("utterance_confidence", **conf)(label)
    for b, length in enumerate(LENGTHS):
        frames = [
            (int(x.argmax()), float(x.max())) for x in label.log_probs[b, :length]
        ]
        used = [best for token, best in frames if token != 0]
        used = used or [best for _, best in frames]
        confidence = math.exp(sum(used) / len(used))
        expected = float(label.weight[b]) * trusted(confidence, power, threshold)
        assert float(shaped.weight[b]) == pytest.approx(expected)
        if b == 2:
            assert confidence == pytest.approx(0.7)


def test_utterance_confidence_of_long_audio_ignores_padding_bit_for_bit() -> None:
    """A plain sum over 700 frames is grouped by the padded size, and rounds so."""
    lengths = torch.full((64,), 700)
    log_probs = make_log_probs(64, 1000, V)
    narrow = utterance_confidence(log_probs[:, :700], lengths)
    for size in (707, 764, 1000):
        wide = utterance_confidence(log_probs[:, :size], lengths)
        assert torch.equal(narrow, wide)


def test_a_threshold_of_1_keeps_what_is_certain() -> None:
    log_probs = torch.full((1, 3, V), -math.inf)
    log_probs[:, :2, 1] = 0.0
    log_probs[:, 2, :2] = math.log(0.5)
    label = make_label(log_probs, torch.tensor([3]))
    shaped = shaping.build("frame_confidence", threshold=1.0)(label)
    assert shaped.frame_weight.tolist() == [[1.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    "name, conf",
    [
        ("sharpen", {"temperature": 1.0}),
        ("align", {"power": 0.0}),
        ("blank", {}),
        ("frame_confidence", {"threshold": 0.0}),
        ("token_confidence", {"power": 0.0}),
        ("utterance_confidence", {"power": 0.0}),
    ],
)
def test_limits_change_nothing(name, conf) -> None:
    lengths = torch.full((B,), T)
    label = complete(make_label(make_log_probs(B, T, V), lengths))
    shaped = shaping.build(name, **conf)(label)
    for field, tensor in given(label).items():
        torch.testing.assert_close(getattr(shaped, field), tensor)


def test_a_users_shaping_by_dotted_path() -> None:
    label = teacher_label()
    mine = shaping.build(f"{__name__}:Mine", factor=2.0)
    assert torch.equal(mine(label).weight, 2.0 * label.weight)
    assert mine.state_dict() == {} and not mine.needs_prior


@pytest.mark.parametrize(
    "name, conf, message",
    [
        ("sharpn", {}, "pl_shaping: unknown shaping.*Did you mean 'sharpen'"),
        ("sharpen", {"temprature": 1.0}, "pl_shaping_conf: unknown key"),
        ("sharpen", {"temperature": 0.0}, "> 0"),
        ("align", {"decay": 1.5}, "decay"),
        ("align", {"power": -1.0}, "power"),
        ("blank", {"bias": math.inf}, "bias"),
        ("blank", {"prior_scale": -0.1}, "prior_scale"),
        ("frame_confidence", {"threshold": 1.5}, "threshold"),
        ("token_confidence", {"power": -1.0}, "power"),
        ("token_confidence", {"threshold": -0.5}, "threshold"),
        ("utterance_confidence", {"threshold": math.nan}, "threshold"),
        ("utterance_confidence", {"power": math.nan}, "power"),
    ],
)
def test_bad_settings_are_refused(name, conf, message) -> None:
    with pytest.raises(ValueError, match=message):
        shaping.build(name, **conf)


def test_a_sampled_transcript_is_one_that_the_teacher_may_say() -> None:
    """At a temperature of 1 each transcript comes up as often as it is probable."""
    log_probs = make_log_probs(1, 3, 3)
    label = make_label(log_probs, torch.tensor([3]))
    shaped = shaping.build("sample", temperature=1.0)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(4000):
        told = shaped(label)
        assert torch.equal(told.log_probs, label.log_probs)
        key = tuple(told.tokens[0, : told.token_lengths[0]].tolist())
        counts[key] = counts.get(key, 0) + 1
    exact: dict[tuple[int, ...], float] = {}
    for path in all_paths(3, 3):
        key = reference_collapse(path)
        probability = float(path_log_prob(log_probs[0], path).exp())
        exact[key] = exact.get(key, 0.0) + probability
    for key, probability in exact.items():
        error = (probability * (1 - probability) / 4000) ** 0.5
        assert abs(counts.get(key, 0) / 4000 - probability) < 4 * error + 1e-3


def test_sampled_transcripts_become_greedy_at_low_temperatures() -> None:
    label = teacher_label()
    cold = shaping.build("sample", temperature=1e-3)(label)
    tokens, lengths = greedy(label.log_probs, label.lengths)
    assert torch.equal(cold.token_lengths, lengths)
    assert torch.equal(cold.tokens, tokens)
