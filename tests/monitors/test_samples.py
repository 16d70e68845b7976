"""Which utterances are recorded, and how the records survive."""

from __future__ import annotations

import json

import pytest
import torch

from espnet_softpl.labels.pseudo_label import Labels
from espnet_softpl.monitors.samples import OTHER_REASON, SampleRecorder
from espnet_softpl.training.task import SoftPLTask
from tests.conftest import make_label
from tests.support.espnet_runs import PL, Data, config, make_data, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


def test_records_survive_in_the_middle_of_an_epoch(tmp_path) -> None:
    recorder = SampleRecorder(["a"], str)
    rows = [dict(step=1, utterance="a", label="A")]
    recorder.load_state_dict({"rows": rows})
    assert recorder.state_dict() == {"rows": rows}
    recorder.write(tmp_path, 3, 0)
    file = tmp_path / "pl_samples" / "3epoch.rank0.jsonl"
    assert [json.loads(line) for line in file.read_text().splitlines()] == rows
    assert recorder.state_dict() == {"rows": []}
    recorder.write(tmp_path, 3, 0)  # Trained again, with nothing to say.
    assert not file.exists()


def test_samples_can_be_switched_off(data, tmp_path) -> None:
    options = config(**data.options(), **PL, max_epoch=1, pl_samples=0)
    exp = train(SoftPLTask, options, tmp_path / "exp")
    assert not (exp / "pl_samples").exists()


PATHS = torch.tensor([[1, 1, 0, 2], [2, 0, 2, 0], [0, 1, 0, 0]])
LOG_PROBS = torch.nn.functional.one_hot(PATHS, 3).mul(9.0).log_softmax(-1)


def record(recorder: SampleRecorder, weight: list[float], reason: list[int]) -> None:
    label = make_label(LOG_PROBS, torch.tensor([4, 4, 4]))
    label = label._replace(weight=torch.tensor(weight))
    reasons = torch.tensor(reason)
    labels = Labels(["a", "b", "c"], label, PATHS, reasons, {}, step=2)
    recorder.record(5, labels, label, LOG_PROBS.flip(0))


def test_chosen_utterances_are_recorded_with_what_dropped_them(tmp_path) -> None:
    recorder = SampleRecorder(["a", "c"], str, ["tokens", "rate"])
    record(recorder, [0.5, 1.0, 0.0], [-1, -1, 1])
    record(recorder, [0.0, 1.0, 1.0], [2, -1, -1])
    recorder.write(tmp_path, 3, 0)
    lines = (tmp_path / "pl_samples" / "3epoch.rank0.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["utterance"] for row in rows] == ["a", "c", "a", "c"]
    assert rows[0] == {
        "step": 5,
        "made": 2,
        "utterance": "a",
        "label": "[1, 2]",
        "student": "[1]",
        "weight": 0.5,
        "confidence": pytest.approx(0.9998),
        "dropped_by": "",
    }
    assert [row["dropped_by"] for row in rows] == ["", "rate", OTHER_REASON, ""]
    assert recorder.state_dict() == {"rows": []}
