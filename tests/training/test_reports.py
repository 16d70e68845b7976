"""Statistics exchanged and read in one go, against ESPnet's own way."""

from __future__ import annotations

import io
import logging
import math
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from espnet2.torch_utils.recursive_op import recursive_average
from espnet2.train import trainer
from espnet2.train.reporter import Reporter, SubReporter

from espnet_softpl.monitors import statistics
from espnet_softpl.monitors.guard import Guard
from espnet_softpl.training import reports
from espnet_softpl.training.reports import EpochLine, closest

NAN = math.nan
# Of three processes: values of four statistics, and the weight.
PROCESSES = [
    ([1.0, NAN, 0.3, NAN], 8),
    ([2.0, 5.0, 0.7, NAN], 3),
    ([4.0, 1.0, NAN, NAN], 5),
]


def mine() -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    values, weight = PROCESSES[0]
    stats = {f"s{i}": torch.tensor([value]) for i, value in enumerate(values)}
    return stats, torch.tensor([weight])


class Others:
    """Stand in for the other processes in one average; count what is exchanged."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def all_gather(self, parts: list[torch.Tensor], own: torch.Tensor) -> None:
        """Give the next values of each process, weighted."""
        done = sum(self.sizes)
        for part, (values, weight) in zip(parts, PROCESSES):
            row = torch.tensor([*values, 1.0]) * weight
            part.copy_(row[done : done + own.numel()].view_as(part))
        torch.testing.assert_close(parts[0], own, equal_nan=True)
        self.sizes.append(own.numel())

    def all_reduce(self, weight: torch.Tensor, op=None) -> None:
        """Sum the weights."""
        weight.fill_(sum(weight for _, weight in PROCESSES))
        self.sizes.append(1)


def averaged(monkeypatch, average) -> tuple[dict, torch.Tensor, list[int]]:
    others = Others()
    monkeypatch.setattr(dist, "all_gather", others.all_gather)
    monkeypatch.setattr(dist, "all_reduce", others.all_reduce)
    monkeypatch.setattr(dist, "get_world_size", lambda: len(PROCESSES))
    monkeypatch.setattr(reports, "rank_and_world", lambda: (0, len(PROCESSES)))
    return *average(*mine(), distributed=True), others.sizes


def test_one_exchange_gives_the_averages_of_espnet(monkeypatch) -> None:
    theirs, weight, sizes = averaged(monkeypatch, recursive_average)
    ours, our_weight, our_sizes = averaged(monkeypatch, reports.average)
    assert sizes == [1] * 5 and our_sizes == [5]
    assert list(ours) == list(theirs) and weight.dtype == our_weight.dtype
    assert torch.equal(weight, our_weight)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=0, equal_nan=True)
    # What a process does not know counts as the mean of the others: (15 + 5) / 2.
    assert float(ours["s1"]) == pytest.approx(3 * 10 / 16) and ours["s3"].isnan()


def test_hours_of_all_processes_are_summed(monkeypatch) -> None:
    monkeypatch.setattr(
        statistics, "KEPT_HOURS", statistics.KEPT_HOURS._replace(name="s0")
    )
    ours, _, _ = averaged(monkeypatch, reports.average)
    assert float(ours["s0"]) == pytest.approx(1.0 + 2.0 + 4.0)
    assert float(ours["s1"]) == pytest.approx(3 * 10 / 16)


class Terminal(io.StringIO):
    """A terminal, to those who ask."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "rank", "shown"),
    [(Terminal(), 0, True), (Terminal(), 1, False), (io.StringIO(), 0, False)],
)
def test_progress_is_shown_once_and_on_a_terminal(
    monkeypatch, stream, rank, shown
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(reports, "rank_and_world", lambda: (rank, 2))
    batches = reports.progress([1, 2, 3], epoch=4)
    assert len(batches) == 3 and list(batches) == [1, 2, 3]
    assert ("Epoch 4: " in stream.getvalue()) == shown


@pytest.mark.parametrize("shown", [True, False])
def test_a_bar_leaves_the_log_as_it_is(monkeypatch, shown) -> None:
    """What handlers filter stays out, and none is added."""
    stream = Terminal() if shown else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("said: %(message)s"))
    handler.addFilter(lambda record: "secret" not in record.getMessage())
    monkeypatch.setattr(logging.root, "handlers", [handler])
    emit = handler.emit
    with reports.logging_above(reports.progress([1], epoch=4)):
        assert logging.root.handlers == [handler]
        logging.root.error("heard")
        logging.root.error("secret")
    assert handler.emit == emit
    assert "said: heard" in stream.getvalue() and "secret" not in stream.getvalue()


def test_a_reporter_gets_the_numbers_that_it_would_read() -> None:
    stats, weight = mine()
    rows = []
    for once in (False, True):
        with Reporter().observe("train", 1) as reporter:
            if once:
                with reports.at_once(reporter):
                    assert trainer.recursive_average is reports.average
                    reporter.register({**stats, "extra": 2.5, "none": None}, weight)
                assert "register" not in vars(reporter)
            else:
                reporter.register({**stats, "extra": 2.5, "none": None}, weight)
            rows.append(repr(dict(reporter.stats)))
            reporter.next()
    assert rows[0] == rows[1].replace("weight=8.0", "weight=8")
    assert trainer.recursive_average is recursive_average


LIMITS = {"pl_frame_entropy": {"highest": 2.0}, "pl_vocabulary": {"lowest": 0.5}}


def reporter_of(key: str, *rows: dict[str, float]) -> SubReporter:
    sub = SubReporter(key, 3, 0)
    for row in rows:
        sub.register(row, 1.0)
        sub.next()
    return sub


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, which only a test moves."""
    now = [0.0]
    monkeypatch.setattr(reports.time, "perf_counter", lambda: now[0])
    return now


def engine_of(kept_hours: float, labeling: float = 0.0) -> SimpleNamespace:
    watch = SimpleNamespace(read=lambda: labeling)
    return SimpleNamespace(kept_hours=kept_hours, guard=None, stopwatch=watch)


def test_the_line_of_an_epoch(clock) -> None:
    line, engine = EpochLine(5), engine_of(1.0, labeling=15.0)
    nan = math.nan
    clock[0] = 100.0  # What came before counts for nothing.
    line.begin(engine)
    clock[0], engine.kept_hours = 160.0, 1.5
    trained = [{"pl_cer": 0.2, "pl_kept": 1.0}, {"pl_cer": nan, "pl_kept": nan}]
    trained.append({"pl_cer": 0.1, "pl_kept": 0.9})
    line.after_training(reporter_of("train", *trained), engine)
    clock[0] = 170.0
    valid = reporter_of("valid", {"cer_ctc": 0.25}, {"cer_ctc": 0.15})
    assert line.after_validation(valid, engine) == (
        "Epoch 3 of 5: dev CER 20.0%; CER of the labels 15.0%; 95% of the labels used; "
        "labeling took 25% of the time; "
        "learned from 30.0 unlabeled minutes (30.0 times real time); "
        "2 minutes and 20 seconds to go"
    )


def test_what_is_not_known_is_left_out(clock) -> None:
    line, engine = EpochLine(3), engine_of(math.nan)
    line.begin(engine)
    line.after_training(reporter_of("train", {"pl_cer": math.nan}), engine)
    assert line.after_validation(reporter_of("valid", {"acc": 1.0}), engine) == (
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
