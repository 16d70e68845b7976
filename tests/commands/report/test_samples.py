"""Labels over time: what changed, what is true, and how they sound."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from espnet_softpl.commands.experiment import Experiment
from espnet_softpl.commands.report.samples import (
    OPTION,
    Word,
    compare,
    error_rate,
    find_recordings,
    thin,
)
from espnet_softpl.core.errors import UserError
from espnet_softpl.data.audio import READ_ERRORS
from tests.support.report_pages import run_report


def test_words_are_compared_with_the_truth_and_with_before() -> None:
    assert compare("A X C D", "A B C", "A B C D") == [
        Word("A", "right"),
        Word("B", "gone", True),
        Word("X", "wrong", True, "B"),
        Word("C", "right"),
        Word("D", "extra"),
    ]
    assert compare("A", "A B", "A B") == [
        Word("A", "right"),
        Word("B", "missing", True),
    ]
    assert compare("A B", None, None) == [Word("A", "plain"), Word("B", "plain")]
    assert compare("", "A", "") == [Word("A", "missing")]
    assert compare("", None, "") == []


def test_a_label_has_a_wer_if_the_truth_has_words() -> None:
    assert error_rate("A X C", "A B") == pytest.approx(100.0)
    assert error_rate("A", None) is None and error_rate("A", "") is None


def test_rows_are_thinned_evenly() -> None:
    assert thin(range(11), 6) == [0, 2, 4, 6, 8, 10]
    assert thin(range(3), 6) == [0, 1, 2]
    assert thin(range(100), 4) == [0, 33, 66, 99]


@pytest.mark.slow
def test_labels_over_time(runs, tmp_path) -> None:
    page = run_report(runs["cached"], out=tmp_path / "out")
    rows = [
        json.loads(line)
        for file in sorted((runs["cached"] / "pl_samples").iterdir())
        for line in file.read_text().splitlines()
    ]
    assert {file.name for file in (runs["cached"] / "pl_samples").iterdir()} == {
        "1epoch.rank0.jsonl",
        "2epoch.rank0.jsonl",
    }
    assert any(row["made"] < row["step"] for row in rows)  # From the cache.
    assert all(row["weight"] == 1.0 and row["dropped_by"] == "" for row in rows)
    for key in {row["utterance"] for row in rows}:
        assert f"{key}: its labels over time." in page.words
    truths = Path(page_truths(runs["cached"])).read_text().splitlines()
    key, truth = next(t.split(" ", 1) for t in truths if t.split()[0] in page.words)
    assert f"true {truth} {key}: its labels" in page.words


def page_truths(exp: Path) -> str:
    return yaml.safe_load((exp / "config.yaml").read_text())["unlabeled_oracle_text"]


def test_audio_is_found_beside_the_recipe_and_embedded(tmp_path: Path) -> None:
    exp = tmp_path / "exp" / "one"
    exp.mkdir(parents=True)
    audio = np.stack([np.full(4000, 0.5), np.zeros(4000)], axis=1)
    soundfile.write(tmp_path / "a.wav", audio, 8000)
    scp = tmp_path / "wav.scp"
    scp.write_text("a a.wav\nb gone.wav\n")
    experiment = Experiment(exp, {OPTION: [["wav.scp", "speech", "sound"]]})
    (found,) = find_recordings(experiment, {"a", "unknown"}).values()
    assert found.seconds == 0.5
    head, data = found.embed().split(",")
    mixed, rate = soundfile.read(io.BytesIO(base64.b64decode(data)))
    assert head == "data:audio/flac;base64" and rate == 8000
    assert mixed.shape == (4000,) and np.allclose(mixed, 0.25, atol=1e-4)
    with pytest.raises(READ_ERRORS):
        find_recordings(experiment, {"b"})
    scp.unlink()
    with pytest.raises((UserError, OSError)):
        find_recordings(experiment, {"a"})
    assert find_recordings(Experiment(exp, {}), {"a"}) == {}
    assert find_recordings(experiment, set()) == {}
