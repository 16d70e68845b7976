"""Shaping: the generic properties, and oracles in plain loops."""

import io
import math

import pytest
import torch

from espnet_softpl import shaping
from espnet_softpl.ctc import greedy
from espnet_softpl.ctc.sampling import sample_paths
from espnet_softpl.labels.pseudo_label import PseudoLabel
from tests.conftest import make_label, make_log_probs
from tests.shaping.test_lm_posterior import make_lm

LM = make_lm(5)
SETTINGS = {
    "align": [{}, {"decay": 0.5, "power": 0.5}],
    "blank": [{"bias": -2.0}, {"bias": 0.5, "prior_scale": 0.7}, {"prior_scale": 1.0}],
    "frame_confidence": [{}, {"threshold": 0.5}],
    "lm_posterior": [{"lm": LM}, {"lm": LM, "bonus": 1.0, "topk": 4}],
    "rescore": [{"nbest": 3}, {"lm": LM, "nbest": 3, "beam_size": 9}],
    "sample": [{}, {"temperature": 1.0}],
    "sharpen": [{}, {"temperature": 2.0}],
    "token_confidence": [{}, {"power": 2.0, "threshold": 0.7}],
    "utterance_confidence": [{}, {"power": 3.0, "threshold": 0.6}],
    "votes": [{}, {"passes": 2}],
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


class Noisy:
    """A teacher with dropout: its n-th pass weighs the tokens by the n-th pattern."""

    def __init__(self, label: PseudoLabel) -> None:
        self.label = label
        self.calls = 0

    def __call__(self) -> PseudoLabel:
        """Label again."""
        self.calls += 1
        frames = self.label.log_probs.detach().float()
        pattern = torch.arange(frames.size(2)) * self.calls
        frames = (frames * (1.0 + 0.8 * pattern.sin())).log_softmax(-1)
        return make_label(frames, self.label.lengths)


def shape(name: str, conf: dict, label: PseudoLabel) -> PseudoLabel:
    """Build a shaping, and change a label by it."""
    return call(shaping.build(name, **conf), label)


def call(part: shaping.Shaping, label: PseudoLabel) -> PseudoLabel:
    """Call a shaping with what it needs."""
    return part(label, Noisy(label)) if part.needs_dropout else part(label)


def given(label: PseudoLabel) -> dict[str, torch.Tensor]:
    """Return the fields that are tensors."""
    fields = label._asdict().items()
    return {name: field for name, field in fields if isinstance(field, torch.Tensor)}


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
    shaped = shape(name, conf, label)
    changed = {n: f for n, f in given(shaped).items() if f is not given(label).get(n)}
    assert changed
    for field, tensor in changed.items():
        assert not tensor.requires_grad
        if field in copies and field != "tokens":
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
    one, two = shape(name, conf, label), shape(name, conf, wide)
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
    shaped = rows(shape(name, conf, label), order)
    shuffled = shape(name, conf, rows(label, order))
    for field in given(label):
        one, two = getattr(shaped, field), getattr(shuffled, field)
        # `align` sums the mean of the batch in another order.
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@every_shaping
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(name, conf, dtype) -> None:
    label = teacher_label()
    low = label._replace(log_probs=label.log_probs.to(dtype))
    high = low._replace(log_probs=low.log_probs.float())
    one, two = shape(name, conf, low), shape(name, conf, high)
    for field, tensor in given(one).items():
        if tensor is getattr(low, field):
            continue
        assert tensor.dtype == getattr(two, field).dtype
        assert torch.equal(tensor, getattr(two, field))
        # A score of -inf is no transcript.
        assert field == "list_scores" or torch.isfinite(tensor).all()


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
    shaped = shape(name, conf, label)
    assert (shaped.log_probs <= 0).all()  # False for NaN.
    assert torch.isfinite(shaped.log_probs.amax(-1)).all()
    assert torch.isfinite(shaped.weight).all() and (shaped.weight >= 0).all()
    assert ((shaped.frame_weight >= 0) & (shaped.frame_weight <= 1)).all()


@every_shaping
def test_attributes_tell_what_is_used_and_set(name, conf) -> None:
    shaped = shaping.build(name, **conf)
    label = teacher_label()._replace(frame_weight=None)
    out = call(shaped, label)
    assert (out.frame_weight is not None) == shaped.sets_frame_weight
    other = shape(name, conf, label._replace(prior=PRIOR.flip(0)))
    same = all(
        torch.equal(out_field, given(other)[field])
        for field, out_field in given(out).items()
        if field != "prior" and out_field.shape == given(other)[field].shape
    )
    assert same != shaped.needs_prior


@every_shaping
def test_transcripts_are_read_again(name, conf) -> None:
    label = teacher_label()
    # Their transcripts are not the greedy ones.
    if name in ("rescore", "sample", "votes"):
        return
    shaped = shape(name, conf, label)
    tokens, token_lengths = greedy(shaped.log_probs, LENGTHS)
    assert torch.equal(shaped.tokens, tokens)
    assert torch.equal(shaped.token_lengths, token_lengths)


@every_shaping
def test_state_resumes_bit_for_bit(name, conf) -> None:
    one, resumed = shaping.build(name, **conf), shaping.build(name, **conf)
    call(one, teacher_label())
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    label = teacher_label()
    expected, shaped = call(one, label), call(resumed, label)
    for field, tensor in given(expected).items():
        assert torch.equal(tensor, getattr(shaped, field))


@pytest.mark.parametrize(
    "name, conf",
    [
        ("sharpen", {"temperature": 1.0}),
        ("align", {"power": 0.0}),
        ("blank", {}),
        ("lm_posterior", {"lm": LM, "lm_scale": 0.0, "prior_scale": 0.0}),
        ("frame_confidence", {"threshold": 0.0}),
        ("token_confidence", {"power": 0.0}),
        ("utterance_confidence", {"power": 0.0}),
    ],
)
def test_limits_change_nothing(name, conf) -> None:
    lengths = torch.full((B,), T)
    label = complete(make_label(make_log_probs(B, T, V), lengths))
    shaped = shape(name, conf, label)
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
        ("lm_posterior", {}, "lm must be a bigram of the tokens, an ARPA file"),
        ("lm_posterior", {"lm": 3}, "lm must be a bigram"),
        ("lm_posterior", {"lm": LM, "lm_scale": -1.0}, "lm_scale"),
        ("lm_posterior", {"lm": LM, "prior_scale": -1.0}, "prior_scale"),
        ("lm_posterior", {"lm": LM, "bonus": math.nan}, "bonus"),
        ("lm_posterior", {"lm": LM, "topk": 0}, "topk"),
        ("rescore", {"lm": 3}, "lm must be a bigram"),
        ("rescore", {"lm_scale": -1.0}, "lm_scale"),
        ("rescore", {"bonus": -1.0}, "bonus"),
        ("rescore", {"temperature": 0.0}, "temperature"),
        ("rescore", {"nbest": 0}, "nbest"),
        ("rescore", {"nbest": 4, "beam_size": 3}, "beam_size"),
        ("token_confidence", {"power": -1.0}, "power"),
        ("token_confidence", {"threshold": -0.5}, "threshold"),
        ("utterance_confidence", {"threshold": math.nan}, "threshold"),
        ("utterance_confidence", {"power": math.nan}, "power"),
        ("votes", {"passes": 1}, "passes must be an integer >= 2"),
    ],
)
def test_bad_settings_are_refused(name, conf, message) -> None:
    with pytest.raises(ValueError, match=message):
        shaping.build(name, **conf)
