"""What TensorBoard and W&B get: labels of an epoch, and alarms once each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from espnet_softpl.training.publishing import COLUMNS, Publisher, to_markdown

ROW = dict(zip(COLUMNS, (7, "utt-1", "A | B", "A", 0.5, ""))) | {"made": 3, "weight": 1}


class Shown:
    """Stand in for TensorBoard's writer and for the module wandb."""

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


def test_samples_are_a_table(experiment: Path) -> None:
    writer, wandb = Shown(), Shown()
    publisher = Publisher(experiment, writer, wandb)
    for epoch in (1, 2):  # Nothing was recorded in the first.
        publisher.samples(epoch)
    ((tag, text, epoch),) = writer.calls
    assert (tag, epoch) == ("pl_samples", 2)
    assert text.splitlines()[2] == r"| 7 | utt-1 | A \| B | A | 0.5 |  |"
    row = [7, "utt-1", "A | B", "A", 0.5, ""]
    assert wandb.calls == [("log", {"pl_samples": (list(COLUMNS), [row])})]


def test_an_alarm_is_told_once_and_old_ones_never(experiment: Path) -> None:
    write_alarm(experiment, 50)
    writer, wandb = Shown(), Shown()
    publisher = Publisher(experiment, writer, wandb)
    publisher.alarms()
    write_alarm(experiment, 100)
    publisher.alarms()
    publisher.alarms()
    text = "    alarm of 100\n    line two\n"
    assert writer.calls == [("pl_alarm", text, 100)]
    (alert,) = wandb.calls
    assert alert[1] == "alarm of 100\nline two\n"


def test_nothing_is_handed_on_if_both_are_off(experiment: Path) -> None:
    publisher = Publisher(experiment, None, None)
    write_alarm(experiment, 100)
    publisher.samples(2)
    publisher.alarms()


def test_a_table_has_a_row_for_each() -> None:
    lines = to_markdown([[1] * len(COLUMNS)] * 3).splitlines()
    assert len(lines) == 5 and {line.count("|") for line in lines} == {len(COLUMNS) + 1}
