"""One line about an epoch."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from espnet2.train.reporter import SubReporter

from espnet_softpl.monitors.guard import Guard
from espnet_softpl.training import epoch_line
from espnet_softpl.training.epoch_line import EpochLine, closest

LIMITS = {"pl_frame_entropy": {"highest": 2.0}, "pl_vocabulary": {"lowest": 0.5}}


def reporter(key: str, *rows: dict[str, float]) -> SubReporter:
    sub = SubReporter(key, 3, 0)
    for row in rows:
        sub.register(row, 1.0)
        sub.next()
    return sub


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, which only a test moves."""
    now = [0.0]
    monkeypatch.setattr(epoch_line.time, "perf_counter", lambda: now[0])
    return now


def test_the_line_of_an_epoch(clock) -> None:
    line, engine = EpochLine(5), SimpleNamespace(kept_hours=1.0, guard=None)
    nan = math.nan
    clock[0] = 100.0  # What came before counts for nothing.
    line.begin(engine)
    clock[0], engine.kept_hours = 160.0, 1.5
    trained = [{"pl_cer": 0.2, "pl_kept": 1.0}, {"pl_cer": nan, "pl_kept": nan}]
    trained.append({"pl_cer": 0.1, "pl_kept": 0.9})
    line.after_training(reporter("train", *trained), engine)
    clock[0] = 170.0
    valid = reporter("valid", {"cer_ctc": 0.25}, {"cer_ctc": 0.15})
    assert line.after_validation(valid, engine) == (
        "Epoch 3 of 5: dev CER 20.0%; CER of the labels 15.0%; 95% of the labels used; "
        "learned from 30.0 unlabeled minutes (30.0 times real time); "
        "2 minutes and 20 seconds to go"
    )


def test_what_is_not_known_is_left_out(clock) -> None:
    line, engine = EpochLine(3), SimpleNamespace(kept_hours=math.nan, guard=None)
    line.begin(engine)
    line.after_training(reporter("train", {"pl_cer": math.nan}), engine)
    assert line.after_validation(reporter("valid", {"acc": 1.0}), engine) == (
        "Epoch 3 of 3: "
    )


def test_the_guards_closest_limit() -> None:
    guard = Guard(reference_steps=1, window=1, deviations=0, limits=LIMITS)
    assert closest(guard) is None
    guard.observe(0, {"pl_frame_entropy": 1.0, "pl_vocabulary": 10.0})
    guard.observe(1, {"pl_frame_entropy": 1.25, "pl_vocabulary": 9.0})
    assert closest(guard) == ("pl_frame_entropy", 0.75)
    guard.observe(2, {"pl_frame_entropy": 1.0, "pl_vocabulary": 6.0})
    assert closest(guard) == ("pl_vocabulary", pytest.approx(0.2))
    guard.observe(3, {"pl_frame_entropy": 3.0, "pl_vocabulary": 6.0})
    assert closest(guard) == ("pl_frame_entropy", 0.0)
    guard.observe(4, {"pl_frame_entropy": math.inf, "pl_vocabulary": 6.0})
    assert closest(guard) == ("pl_frame_entropy", 0.0)
