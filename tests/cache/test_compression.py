"""Compressed posteriors: the top token survives, the rest is close, padding is none."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from espnet_softpl.cache.compression import (
    LEVELS,
    MAX_GAP,
    PRECISIONS,
    ROOT,
    Compression,
    _decode,
    _encode,
)
from espnet_softpl.ctc import frame_mask
from tests.conftest import make_log_probs

B, T, V = 4, 9, 12
LENGTHS = torch.tensor([9, 6, 1, 0])
SETTINGS = list(itertools.product([1, 2, 5, V - 1, V, None], PRECISIONS, [None]))
SETTINGS += itertools.product([1, 5, V, None], PRECISIONS, [0.0, 0.02, 0.3, 1.0])
every_setting = pytest.mark.parametrize("top_k, precision, min_p", SETTINGS)
every_precision = pytest.mark.parametrize("precision", PRECISIONS)


def round_trip(
    conf: Compression, log_probs: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Compress, and restore with the same padding."""
    packed = conf.compress(log_probs, lengths)
    return conf.restore(packed, lengths, log_probs.size(1), log_probs.size(2))


def full(log_probs: torch.Tensor) -> torch.Tensor:
    """Return lengths without padding."""
    return torch.full((log_probs.size(0),), log_probs.size(1))


def largest_error(precision: str, gap: float) -> float:
    """Bound the rounding of a gap in nats, from what a format can express."""
    if precision == "float32":
        return 2.0**-15
    if precision == "float16":
        return 2.0**-15 + gap * 2.0**-11
    # One level, as its width in nats on the far side.
    level = LEVELS * (1.0 - math.exp(-gap / ROOT))
    upper = -ROOT * math.log1p(-min(level + 1.0, LEVELS - 1.0) / LEVELS)
    return max(upper - gap, gap - upper, 2.0 * ROOT / LEVELS)


def expected_frame(
    frame: list[float], top_k: int | None
) -> tuple[list[int], list[float]]:
    """Keep the best of one frame and share out the rest, in double precision."""
    size = len(frame)
    order = sorted(range(size), key=lambda v: -frame[v])
    kept = order[: size if top_k is None else min(top_k, size)]
    rest = sum(math.exp(frame[v]) for v in order[len(kept) :])
    each = math.log(rest / (size - len(kept))) if len(kept) < size else 0.0
    return kept, [frame[v] if v in kept else each for v in range(size)]


def kept_by(
    frame: list[float], top_k: int | None, precision: str, min_p: float | None
) -> int | None:
    """Count the tokens of one frame that are kept."""
    if min_p is None:
        return top_k
    most = min(top_k or len(frame), len(frame) - 1)
    gaps = torch.tensor([max(frame) - height for height in frame])
    rounded = _decode(_encode(gaps, precision))
    probable = int((rounded.neg().exp() >= min_p).sum())
    return max(min(probable, most), 1)


@every_setting
def test_frames_are_as_written_down(top_k, precision, min_p) -> None:
    log_probs = make_log_probs(B, T, V, torch.float64)
    restored = round_trip(
        Compression(top_k, precision, min_p), log_probs.float(), LENGTHS
    )
    for b, length in enumerate(LENGTHS.tolist()):
        for t in range(length):
            frame = log_probs[b, t].tolist()
            _, expected = expected_frame(frame, kept_by(frame, top_k, precision, min_p))
            found = restored[b, t].tolist()
            for v in range(V):
                gap = max(expected) - expected[v]
                error = (max(found) - found[v]) - gap
                assert abs(error) <= largest_error(precision, gap) + 1e-5


@every_setting
@pytest.mark.parametrize("size", [V, 5000])
def test_frames_sum_to_1(top_k, precision, min_p, size) -> None:
    log_probs = make_log_probs(2, 20, size)
    restored = round_trip(
        Compression(top_k, precision, min_p), log_probs, full(log_probs)
    )
    assert restored.dtype == torch.float32
    # A log-posterior near -16 is rounded to 1e-6 itself.
    sums = restored.double().exp().sum(-1)
    assert (sums - 1.0).abs().max() < (1e-6 if size == V else 3e-6)


@every_setting
@pytest.mark.parametrize("kind", ["random", "near", "tied", "flat", "one_hot", "sure"])
def test_the_best_token_stays_the_best(top_k, precision, min_p, kind) -> None:
    log_probs = make_log_probs(8, 40, V)
    if kind == "near":
        # One ulp apart, the better one on either side of the other.
        first, second = torch.rand(8, 40, V).topk(2).indices.split(1, -1)
        high = log_probs.amax(-1, keepdim=True) + 1.0
        log_probs.scatter_(-1, first, high)
        log_probs.scatter_(-1, second, high.nextafter(torch.tensor(-math.inf)))
        assert torch.equal(log_probs.argmax(-1, keepdim=True), first)
    elif kind == "tied":
        log_probs = (log_probs * 0.5).round()
        assert ((log_probs == log_probs.amax(-1, keepdim=True)).sum(-1) > 1).any()
    elif kind == "flat":
        log_probs = torch.full_like(log_probs, -math.log(V))
    elif kind == "one_hot":
        best = torch.randint(V, (8, 40, 1))
        log_probs = torch.full_like(log_probs, -math.inf).scatter(-1, best, 0.0)
    elif kind == "sure":
        log_probs = (60.0 * log_probs).log_softmax(-1)
    restored = round_trip(
        Compression(top_k, precision, min_p), log_probs, full(log_probs)
    )
    best = log_probs.argmax(-1, keepdim=True)
    assert torch.equal(restored.argmax(-1, keepdim=True), best)
    # Alone on top, so that no later rule about ties matters.
    top = restored.gather(-1, best)
    assert ((restored == top).sum(-1) == 1).all()


@pytest.mark.parametrize("top_k", [1, 4, None])
def test_the_best_of_float64_survives(top_k) -> None:
    """Two tokens that are one in float32."""
    log_probs = make_log_probs(1, 50, V, torch.float64)
    log_probs[..., 7] = 1.0
    log_probs[..., 3] = 1.0 - 1e-12
    assert (log_probs.float().argmax(-1) == 3).all()
    restored = round_trip(Compression(top_k, "uint8"), log_probs, full(log_probs))
    assert (restored.argmax(-1) == 7).all()


@every_setting
def test_order_is_kept(top_k, precision, min_p) -> None:
    """No token overtakes another; ties may arise."""
    log_probs = make_log_probs(4, 50, V)
    restored = round_trip(
        Compression(top_k, precision, min_p), log_probs, full(log_probs)
    )
    for frame, again in zip(log_probs.flatten(0, 1), restored.flatten(0, 1)):
        assert (again[frame.argsort(descending=True)].diff() <= 0).all()


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_rest_does_not_overtake_by_rounding(precision) -> None:
    """Gaps half-way between two steps, where the last bit of a sum decides."""
    halves = (torch.arange(2000) + 0.5) / 2.0**15
    scores = -halves.view(1, -1, 1).repeat(1, 1, V)
    scores[..., 4] = 0.0
    conf = Compression(2, precision)
    packed = conf.compress(scores, full(scores))
    restored = conf.restore(packed, full(scores), 2000, V)[0]
    second = packed["tokens"][:, 1:].long()
    assert torch.equal(restored.gather(1, second), restored.topk(2).values[:, 1:])


@every_setting
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("size", [V, 700])
def test_compressing_again_changes_no_bit(top_k, precision, min_p, scale, size) -> None:
    conf = Compression(top_k, precision, min_p)
    log_probs = (scale * make_log_probs(4, 50, size)).log_softmax(-1)
    once = round_trip(conf, log_probs, full(log_probs))
    assert torch.equal(round_trip(conf, once, full(log_probs)), once)


@every_setting
def test_padding_and_company_do_not_matter(top_k, precision, min_p) -> None:
    conf = Compression(top_k, precision, min_p)
    log_probs = make_log_probs(B, T, V)
    garbage = torch.where(
        frame_mask(LENGTHS, T).unsqueeze(-1), log_probs, torch.tensor(math.nan)
    )
    packed = conf.compress(garbage, LENGTHS)
    counts = packed.get("counts", next(iter(packed.values())))
    assert len(counts) == LENGTHS.sum()
    wide = conf.restore(packed, LENGTHS, T + 5, V)
    assert wide.shape == (B, T + 5, V)
    for b, length in enumerate(LENGTHS.tolist()):
        alone = round_trip(conf, log_probs[b : b + 1, :length], LENGTHS[b : b + 1])
        assert torch.equal(wide[b, :length], alone[0])
        uniform = torch.full((T + 5 - length, V), -math.log(V))
        torch.testing.assert_close(wide[b, length:], uniform)


@every_setting
@pytest.mark.parametrize("shape", [(0, 3, V), (2, 0, V), (1, 1, V)])
def test_empty_and_single(top_k, precision, min_p, shape) -> None:
    log_probs = make_log_probs(*shape)
    restored = round_trip(
        Compression(top_k, precision, min_p), log_probs, full(log_probs)
    )
    assert restored.shape == shape
    torch.testing.assert_close(restored.exp().sum(-1), torch.ones(shape[:2]))


@every_precision
def test_a_vocabulary_of_one(precision) -> None:
    log_probs = torch.zeros(1, 3, 1)
    restored = round_trip(Compression(8, precision), log_probs, torch.tensor([3]))
    assert torch.equal(restored, log_probs)


@every_setting
def test_probabilities_of_0_stay_tiny(top_k, precision, min_p) -> None:
    log_probs = make_log_probs(2, 5, V)
    log_probs[..., 3:9] = -math.inf
    log_probs = log_probs.log_softmax(-1)
    restored = round_trip(
        Compression(top_k, precision, min_p), log_probs, full(log_probs)
    )
    assert torch.isfinite(restored).all()
    assert (restored >= -MAX_GAP - math.log(V)).all()
    if (top_k is None or top_k >= V - 6) and min_p in (None, 0.0):
        assert (restored[..., 3:9].exp() <= 2e-12).all()


@every_setting
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input_is_that_of_its_values(
    top_k, precision, min_p, dtype
) -> None:
    conf = Compression(top_k, precision, min_p)
    half = make_log_probs(B, T, V).to(dtype)
    expected = round_trip(conf, half.float(), LENGTHS)
    assert torch.equal(round_trip(conf, half, LENGTHS), expected)


@every_setting
def test_inputs_are_left_alone_and_no_gradient_flows(top_k, precision, min_p) -> None:
    conf = Compression(top_k, precision, min_p)
    log_probs = make_log_probs(B, T, V)
    copy = log_probs.clone()
    packed = conf.compress(log_probs.requires_grad_(True), LENGTHS)
    copies = {name: tensor.clone() for name, tensor in packed.items()}
    restored = conf.restore(packed, LENGTHS, T, V)
    assert torch.equal(log_probs, copy)
    assert all(torch.equal(packed[name], copies[name]) for name in packed)
    assert not restored.requires_grad
    # The caller may write into it: no element shares its place with another.
    assert restored.untyped_storage().nbytes() == restored.nbytes


@every_precision
@pytest.mark.parametrize(
    "size, expected",
    [
        (256, torch.uint8),
        (257, torch.int16),
        (2**15, torch.int16),
        (2**15 + 1, torch.int32),
    ],
)
def test_bytes_per_frame(precision, size, expected) -> None:
    log_probs = torch.zeros(1, 2, size)
    # The last token, which a type too small would take for another one.
    log_probs[..., -1] = 9.0
    lengths = torch.tensor([2])
    packed = Compression(4, precision).compress(log_probs.log_softmax(-1), lengths)
    assert packed["tokens"].dtype == expected
    assert packed["gaps"].dtype == getattr(torch, precision)
    assert packed["tokens"].shape == packed["gaps"].shape == (2, 4)
    restored = Compression(4, precision).restore(packed, lengths, 2, size)
    assert (restored.argmax(-1) == size - 1).all()
    dense = Compression(None, precision).compress(log_probs, lengths)
    assert set(dense) == {"gaps"} and dense["gaps"].shape == (2, size)


@pytest.mark.parametrize("top_k", [2, None])
@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_finer_is_closer(top_k, scale) -> None:
    log_probs = (scale * make_log_probs(8, 100, 50)).log_softmax(-1)
    exact = Compression(top_k, "float32")
    reference = round_trip(exact, log_probs, full(log_probs))
    divergence = {}
    for precision in PRECISIONS:
        again = round_trip(Compression(top_k, precision), log_probs, full(log_probs))
        kl = (reference.exp() * (reference - again)).double().sum(-1)
        divergence[precision] = float(kl.mean())
    assert abs(divergence["float32"]) < 1e-7
    assert divergence["float16"] < 1e-6
    assert divergence["uint8"] < 1e-4


def test_more_tokens_are_closer() -> None:
    log_probs = make_log_probs(8, 100, 50)
    found = []
    for top_k in (1, 4, 16, 49, None):
        again = round_trip(Compression(top_k, "float32"), log_probs, full(log_probs))
        found.append(float((log_probs.exp() * (log_probs - again)).sum(-1).mean()))
    assert all(more < less for less, more in itertools.pairwise(found[:4]))
    assert found[3] < 1e-6 and found[4] < 1e-6
    # The tokens kept and the mass of the rest are right; only its shape is lost.
    assert found[0] > 0.1


def test_scores_are_normalized() -> None:
    log_probs = make_log_probs(2, 6, V)
    conf = Compression(3, "float16")
    shifted = round_trip(conf, log_probs + 0.75, full(log_probs))
    expected = round_trip(conf, log_probs, full(log_probs))
    torch.testing.assert_close(shifted, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("bad", [math.nan, -math.inf, math.inf])
@pytest.mark.parametrize("top_k", [2, None])
def test_frames_without_a_best_token_are_refused(bad, top_k) -> None:
    log_probs = make_log_probs(2, 3, V)
    log_probs[1, 2] = bad
    with pytest.raises(ValueError, match="NaN, or with nothing finite"):
        Compression(top_k).compress(log_probs, torch.tensor([3, 3]))
    # Not where it is padding.
    Compression(top_k).compress(log_probs, torch.tensor([3, 2]))
    log_probs[1, 2, 1:] = -1.0
    if math.isnan(bad):
        with pytest.raises(ValueError, match="NaN"):
            Compression(top_k).compress(log_probs, torch.tensor([3, 3]))


@pytest.mark.parametrize("top_k, min_p", [(2, None), (None, None), (None, 0.2)])
def test_a_copy_of_something_else_is_refused(top_k, min_p) -> None:
    conf = Compression(top_k, min_p=min_p)
    packed = conf.compress(make_log_probs(2, 5, V), torch.tensor([5, 3]))
    for lengths, num_frames, size in (
        ([5, 4], 5, V),
        ([5, 3], 4, V),
        ([5, 3], 5, 1),
    ):
        with pytest.raises(ValueError, match="frames"):
            conf.restore(packed, torch.tensor(lengths), num_frames, size)


def test_other_settings_restore_the_same() -> None:
    log_probs = make_log_probs(B, T, V)
    packed = Compression(3, "uint8").compress(log_probs, LENGTHS)
    same = Compression(3, "uint8").restore(packed, LENGTHS, T, V)
    other = Compression(None, "float32").restore(packed, LENGTHS, T, V)
    assert torch.equal(same, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@every_setting
def test_gpu_in_and_out(top_k, precision, min_p) -> None:
    conf = Compression(top_k, precision, min_p)
    log_probs = make_log_probs(B, T, V)
    packed = conf.compress(log_probs.cuda(), LENGTHS.cuda())
    assert all(tensor.device.type == "cpu" for tensor in packed.values())
    restored = conf.restore(packed, LENGTHS.cuda(), T, V)
    assert restored.device.type == "cuda"
    expected = round_trip(conf, log_probs, LENGTHS)
    tolerance = 0.1 if precision == "uint8" else 1e-2
    torch.testing.assert_close(restored.cpu(), expected, rtol=0, atol=tolerance)
    mask = frame_mask(LENGTHS, T)
    best = log_probs.argmax(-1)
    assert torch.equal(restored.argmax(-1).cpu()[mask], best[mask])


@pytest.mark.parametrize(
    "conf, message",
    [
        ({"top_k": 0}, "top_k must be an integer >= 1, got 0"),
        ({"top_k": 2.5}, "top_k must be an integer >= 1, got 2.5"),
        ({"top_k": True}, "top_k"),
        ({"precision": "float8"}, "precision must be one of float32, float16, uint8"),
        ({"precision": None}, "precision"),
        ({"min_p": -0.1}, "min_p must be a number in"),
        ({"min_p": 1.5}, "min_p must be a number in"),
    ],
)
def test_bad_settings_are_refused(conf, message) -> None:
    with pytest.raises(ValueError, match=message):
        Compression(**conf)
