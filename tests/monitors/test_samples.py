"""Records of what a few utterances were labeled with."""

from __future__ import annotations

import json

import torch

from espnet_softpl.labels.pseudo_label import Labels
from espnet_softpl.monitors.samples import OTHER_REASON, SampleRecorder, choose
from tests.conftest import make_label

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
        "dropped_by": "",
    }
    assert [row["dropped_by"] for row in rows] == ["", "rate", OTHER_REASON, ""]
    assert recorder.state_dict() == {"rows": []}


def test_the_choice_does_not_depend_on_the_order() -> None:
    ids = [f"u{index}" for index in range(50)]
    assert choose(ids, 5) == choose(reversed(ids), 5)
    assert len(choose(ids, 80)) == 50 and choose(ids, 0) == []
