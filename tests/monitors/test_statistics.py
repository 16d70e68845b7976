"""Statistics of pseudo-labels, against values computed by hand."""

import math
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import espnet_softpl
from espnet_softpl.ctc import BLANK, frame_mask
from espnet_softpl.labels.pseudo_label import Labels, best_path, without_nan
from espnet_softpl.monitors.diagnosis import FORMS
from espnet_softpl.monitors.guard import GUARDED, Limits
from espnet_softpl.monitors.oracle import Oracle
from espnet_softpl.monitors.statistics import (
    ALWAYS,
    STATISTICS,
    disagreement,
    dropped_by,
    frame_statistics,
    label_statistics,
    step_statistics,
    vocabulary_use,
)
from espnet_softpl.teacher.generator import as_label
from tests.conftest import make_label, make_log_probs


def describe(log_probs, lengths) -> dict:
    mask = frame_mask(lengths, log_probs.size(1))
    return frame_statistics(log_probs, log_probs.argmax(-1), mask)


def of_labels(log_probs, lengths, speech_lengths, rate=0.01) -> dict:
    """Return the statistics of a teacher's output as they are computed in training."""
    cleaned, sound = without_nan(log_probs, lengths)
    label = as_label(log_probs, lengths)._replace(log_probs=cleaned, weight=sound)
    path = best_path(log_probs, lengths)
    return label_statistics(label, path, speech_lengths, rate)


def test_frame_statistics_by_hand() -> None:
    sharp = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]).log()
    stats = describe(sharp.unsqueeze(0), torch.tensor([2]))
    assert stats["pl_blank_share"] == 0.5
    assert stats["pl_frame_entropy"] == 0.0
    assert stats["pl_mean_entropy"] == pytest.approx(math.log(2))
    assert stats["pl_mutual_information"] == pytest.approx(math.log(2))


def test_collapse_shows_as_no_mutual_information() -> None:
    constant = torch.tensor([0.5, 0.3, 0.2]).log().expand(2, 7, 3)
    stats = describe(constant, torch.tensor([7, 4]))
    assert stats["pl_mutual_information"] == pytest.approx(0.0, abs=1e-6)
    assert stats["pl_frame_entropy"] > 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_changes_nothing(dtype) -> None:
    log_probs = torch.full((4, 5000, 1000), -math.log(1000))  # 7 nats a frame.
    log_probs[:, ::3] = -math.inf
    log_probs[:, ::3, BLANK] = 0.0
    given = log_probs, log_probs.argmax(-1), torch.ones(4, 5000, dtype=torch.bool)
    full = frame_statistics(*given)
    with torch.autocast("cpu", dtype):
        assert frame_statistics(*given) == full
    assert full["pl_frame_entropy"] == pytest.approx(2 / 3 * math.log(1000), rel=1e-3)


def test_padding_is_left_out() -> None:
    log_probs = make_log_probs(2, 6, 4)
    lengths = torch.tensor([6, 2])
    before = describe(log_probs, lengths)
    log_probs[1, 2:] = torch.tensor([0.97, 0.01, 0.01, 0.01]).log()
    assert describe(log_probs, lengths) == before


def test_label_statistics() -> None:
    path = torch.tensor([[1, 1, 0, 2], [0, 0, 0, 0]])
    log_probs = torch.full((2, 4, 3), -50.0).scatter(2, path.unsqueeze(2), 0.0)
    lengths, samples = torch.tensor([4, 4]), torch.tensor([100, 300])
    stats = of_labels(log_probs.log_softmax(-1), lengths, samples)
    assert stats["pl_empty_share"] == 0.5
    assert stats["pl_vocabulary"] == pytest.approx(2.0)
    assert stats["pl_length_ratio"] == pytest.approx(2 / 400 / 0.01)
    assert stats["pl_blank_share"] == pytest.approx(5 / 8)


def test_vocabulary_use_is_a_perplexity() -> None:
    tokens = torch.tensor([[1, 2, 1, -1], [3, 1, 4, 4]])
    use = vocabulary_use(tokens, torch.tensor([3, 2]), 5)
    # Frequencies 3/5, 1/5, 1/5; what lies beyond a length does not count.
    entropy = -(0.6 * math.log(0.6) + 0.4 * math.log(0.2))
    assert float(use) == pytest.approx(math.exp(entropy))
    assert math.isnan(vocabulary_use(tokens, torch.tensor([0, 0]), 5))


def test_disagreement_counts_frames() -> None:
    one = F.one_hot(torch.tensor([[1, 2, 0], [1, 1, 2]]), 3).float()
    other = F.one_hot(torch.tensor([[1, 0, 0], [2, 1, 1]]), 3).float()
    lengths = torch.tensor([3, 2])
    path = other.argmax(-1)
    assert float(disagreement(one, path, lengths)) == pytest.approx(0.4)
    assert float(disagreement(one, one.argmax(-1), lengths)) == 0.0


PACKAGE = Path(espnet_softpl.__file__).parent


@pytest.mark.parametrize("statistic", STATISTICS, ids=lambda one: one.name)
def test_a_name_stands_in_one_file(statistic) -> None:
    name = statistic.name.partition("<")[0]
    quoted = re.compile(rf"""["'/]{name}(<filter>)?["']""")
    files = [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if quoted.search(path.read_text(encoding="utf-8"))
    ]
    assert files == ["monitors/statistics.py"]


def test_every_statistic_says_what_it_is() -> None:
    names = [statistic.name for statistic in STATISTICS]
    assert len(set(names)) == len(names)
    for one in STATISTICS:
        assert one.title
    for one, (limits, low, high) in GUARDED.items():
        assert one in STATISTICS and one.warning
        assert limits != Limits()
        assert low or high
        assert {low, high} - {""} <= set(FORMS)


def test_what_is_computed_is_in_the_table() -> None:
    log_probs = make_log_probs(2, 6, 4)
    label = make_label(log_probs, torch.tensor([6, 2]))
    speech_lengths = torch.tensor([100, 300])
    made = of_labels(log_probs, label.lengths, speech_lengths, math.nan)
    path, reason = label.log_probs.argmax(-1), torch.tensor([-1, 0])
    labels = Labels(["a", "b"], label, path, reason, made, step=3, uses=4)
    label = label._replace(weight=torch.tensor([0.5, 0.0]))
    usable = torch.tensor([True, True])
    student = log_probs, log_probs.amax(-1)
    stats = step_statistics(labels, label, *student, usable, speech_lengths, step=9)
    oracle = Oracle({"a": "x"}, str)
    stats |= oracle.score(["a", "b"], label)
    assert set(stats) < {statistic.name for statistic in STATISTICS}
    assert stats["pl_kept"] == 0.5 and stats["pl_kept_audio"] == 0.25
    assert stats["pl_age"] == 6.0 and stats["pl_uses"] == 4.0
    assert stats["pl_disagreement"] == stats["pl_unusable"] == 0.0
    assert stats["pl_wer"] == stats["pl_wer_kept"]
    assert math.isnan(stats["pl_wer_dropped"])
    assert dropped_by("rate") == "pl_dropped_rate"


def test_labels_that_are_not_finite_are_left_out_and_seen_if_all_are() -> None:
    torch.manual_seed(1)
    log_probs, lengths = torch.randn(3, 9, 5).log_softmax(-1), torch.tensor([9, 7, 8])
    want = of_labels(log_probs[:2], lengths[:2], 100 * lengths[:2])
    log_probs[2, 3] = float("nan")
    some = of_labels(log_probs, lengths, 100 * lengths)
    assert {k: float(v) for k, v in some.items()} == {
        k: pytest.approx(float(v)) for k, v in want.items()
    }
    log_probs[:2] = float("nan")
    none = of_labels(log_probs, lengths, 100 * lengths)
    assert none.keys() == want.keys() == {one.name for one in ALWAYS[2:9]}
    assert all(torch.isinf(value) for value in none.values())
