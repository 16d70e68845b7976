"""What TensorBoard, W&B and MLflow get: an epoch's labels, and alarms once each."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from espnet2.train.reporter import Reporter, SubReporter

from espnet_softpl.training.publishing import (
    COLUMNS,
    Publisher,
    TensorBoard,
    find_receivers,
    to_markdown,
)

ROW = dict(zip(COLUMNS, (7, "utt-1", "A | B", "A", 0.5, ""))) | {"made": 3, "weight": 1}


class Shown:
    """Stand in for TensorBoard's writer and for the modules wandb and mlflow."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def add_text(self, tag: str, text: str, step: int) -> None:
        self.calls.append((tag, text, step))

    def Table(self, columns: list[str], data: list) -> tuple:
        return columns, data

    def log(self, values: dict[str, Any]) -> None:
        self.calls.append(("log", values))

    def alert(self, title: str, text: str) -> None:
        self.calls.append((title, text))

    def active_run(self) -> None:
        return None

    def start_run(self, run_id: str | None, run_name: str) -> SimpleNamespace:
        self.calls.append(("start_run", run_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "new"))

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.calls.append(("log_metrics", values, step))

    def log_table(self, columns: dict[str, list], name: str) -> None:
        self.calls.append(("log_table", columns, name))

    def log_text(self, text: str, name: str) -> None:
        self.calls.append(("log_text", text, name))


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    (tmp_path / "pl_samples").mkdir()
    file = tmp_path / "pl_samples" / "2epoch.rank0.jsonl"
    file.write_text(json.dumps(ROW) + "\n")
    return tmp_path


def write_alarm(directory: Path, step: int) -> None:
    report = directory / "pl_collapse" / f"step{step}" / "report.txt"
    report.parent.mkdir(parents=True)
    report.write_text(f"alarm of {step}\nline two\n")


def reported(epoch: int, key: str, *losses: float) -> SubReporter:
    """Return what ESPnet has at the end of a training or validation."""
    part = Reporter(epoch=epoch).start_epoch(key)
    for loss in losses:
        part.register({"loss": loss})
        part.next()
    return part


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> Shown:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", Shown())
    return sys.modules["wandb"]


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> Shown:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "somewhere")
    monkeypatch.setitem(sys.modules, "mlflow", Shown())
    return sys.modules["mlflow"]


def test_labels_are_a_table(experiment: Path, wandb: Shown) -> None:
    writer = Shown()
    publisher = Publisher(experiment, find_receivers(experiment, writer, True))
    for epoch in (1, 2):  # Nothing was recorded in the first.
        publisher.after_validation(reported(epoch, "valid"))
    ((tag, text, epoch),) = writer.calls
    assert (tag, epoch) == ("pl_samples", 2)
    assert text.splitlines()[2] == r"| 7 | utt-1 | A \| B | A | 0.5 |  |"
    row = [7, "utt-1", "A | B", "A", 0.5, ""]
    assert wandb.calls == [("log", {"pl_samples": (list(COLUMNS), [row])})]


def test_an_alarm_is_told_once_and_old_ones_never(
    experiment: Path, wandb: Shown
) -> None:
    write_alarm(experiment, 50)
    writer = Shown()
    publisher = Publisher(experiment, find_receivers(experiment, writer, True))
    publisher.after_training(reported(2, "train"))
    write_alarm(experiment, 100)
    publisher.after_training(reported(2, "train"))
    publisher.after_training(reported(2, "train"))
    text = "    alarm of 100\n    line two\n"
    assert writer.calls == [("pl_alarm", text, 100)]
    (alert,) = wandb.calls
    assert alert[1] == "alarm of 100\nline two\n"


def test_mlflow_gets_the_numbers_too(experiment: Path, mlflow: Shown) -> None:
    publisher = Publisher(experiment, find_receivers(experiment, None, False))
    publisher.after_training(reported(2, "train", 1.0, 3.0))
    publisher.after_validation(reported(2, "valid", 5.0))
    write_alarm(experiment, 100)
    publisher.after_training(reported(2, "train"))
    columns = {name: [ROW[name]] for name in COLUMNS}
    assert mlflow.calls == [
        ("start_run", None, experiment.name),
        ("log_metrics", {"train/loss": 2.0, "valid/loss": 5.0}, 2),
        ("log_table", columns, "pl_samples.json"),
        ("log_text", "alarm of 100\nline two\n", "pl_alarms/step100.txt"),
    ]
    find_receivers(experiment, None, False)
    assert mlflow.calls[-1] == ("start_run", "new", experiment.name)


def test_nothing_is_handed_on_if_all_are_off(experiment: Path, wandb: Shown) -> None:
    assert find_receivers(experiment, None, False) == []
    publisher = Publisher(experiment, [])
    write_alarm(experiment, 100)
    publisher.after_validation(reported(2, "valid"))
    publisher.after_training(reported(2, "train"))


def test_what_cannot_be_delivered_is_told(
    experiment: Path, mlflow: Shown, caplog: pytest.LogCaptureFixture
) -> None:
    writer = Shown()
    receivers = [*find_receivers(experiment, None, False), TensorBoard(writer)]
    mlflow.log_metrics = None
    Publisher(experiment, receivers).after_validation(reported(2, "valid"))
    assert "MLflow did not get what it is to show: " in caplog.text
    assert len(writer.calls) == 1
    mlflow.start_run = None
    with caplog.at_level(logging.WARNING):
        assert find_receivers(experiment, None, False) == []
    assert "MLFLOW_TRACKING_URI is set, but nothing is sent: " in caplog.text


def test_a_table_has_a_row_for_each() -> None:
    lines = to_markdown([[1] * len(COLUMNS)] * 3).splitlines()
    assert len(lines) == 5 and {line.count("|") for line in lines} == {len(COLUMNS) + 1}
