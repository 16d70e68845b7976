"""Which utterances are recorded, and how the records survive."""

from __future__ import annotations

import json

import pytest

from espnet_softpl.monitors.samples import SampleRecorder, choose
from espnet_softpl.training.task import SoftPLTask
from tests.support.espnet_runs import PL, Data, config, make_data, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


def test_the_choice_of_samples() -> None:
    ids = [f"utterance-{index}" for index in range(100)]
    chosen = choose(ids, 8)
    assert len(chosen) == 8 and chosen == choose(reversed(ids), 8)
    # Fewer utterances: what is still there stays.
    assert set(chosen) - {chosen[0]} <= set(choose(set(ids) - {chosen[0]}, 8))
    assert choose(ids, 0) == [] and len(choose(ids[:3], 8)) == 3
    # Speakers come one after the other in the ids, and all are to be heard.
    assert max(int(key.split("-")[1]) for key in chosen) > 50


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
