"""What an alarm means, in words and in files."""

from __future__ import annotations

import itertools
import math
import sys

import pytest
import torch

from espnet_softpl.monitors import diagnosis
from espnet_softpl.monitors.diagnosis import (
    FORMS,
    SIGNS,
    diagnose,
    explain,
    write_report,
)
from espnet_softpl.monitors.guard import (
    MONITORS,
    Alarm,
    Breach,
    Guard,
)
from tests.conftest import make_label, make_log_probs
from tests.monitors.test_guard import BASE_LEVELS, fed


def test_every_form_is_explained() -> None:
    keys = ("pl_", "use_amp", "optim_conf", "--init_param")
    for form in FORMS.values():
        assert len(form.causes) == 3
        for cause in form.causes:
            why, change = cause.split(" -> ")
            assert why and any(key in change for key in keys)
    assert set(SIGNS.values()) | {"infinite"} == set(FORMS)
    assert {monitor for monitor, _ in SIGNS} == set(MONITORS)


def test_the_explanation_has_numbers_form_and_changes() -> None:
    guard = Guard(reference_steps=1, window=1, patience=1)
    alarm = fed(guard, "pl_frame_entropy", [0.3, 0.8])[-1]
    text = explain(alarm)
    assert text.startswith("Collapse guard: alarm 1 at step 1: the labels flatten.")
    assert (
        "pl_frame_entropy: 0.8 now, 0.3 with the base model; limit 0.48 (highest"
        in text
    )
    for hint in ("hard_ctc", "or blend", "labeled_steps", "half_life_steps", "3. "):
        assert hint in text
    assert text.endswith("pl_guard_conf.limits.pl_frame_entropy.")


def test_a_limit_of_ones_own_has_no_form() -> None:
    alarm = Alarm(3, 1, (Breach("pl_vocabulary", 9.0, 3.0, "6 (above: 6)", "high"),))
    assert diagnose(alarm) == ()
    assert "a limit is broken" in explain(alarm) and "causes" not in explain(alarm)


def alarmed() -> tuple[Guard, Alarm]:
    guard = Guard(reference_steps=2, window=2, patience=2)
    for step in itertools.count():
        levels = dict(BASE_LEVELS, pl_vocabulary=math.nan, pl_disagreement=math.nan)
        levels["pl_frame_entropy"] = 0.33 if step < 10 else 0.8
        levels["pl_mean_entropy"] = math.inf if step == 4 else 2.7
        alarm = guard.observe(step, levels)
        if alarm:
            return guard, alarm


def test_report_files(tmp_path) -> None:
    guard, alarm = alarmed()
    label = make_label(make_log_probs(3, 7, 5), torch.tensor([7, 5, 6]))
    label = label._replace(log_probs=label.log_probs[:2], lengths=label.lengths[:2])
    ids = ["anna-1", "bert-2"]
    pyplot = "matplotlib.pyplot" in sys.modules
    path = write_report(tmp_path / "guard", alarm, guard, label, ids)
    assert ("matplotlib.pyplot" in sys.modules) == pyplot
    assert path == tmp_path / "guard" / f"step{alarm.step}"
    names = {"report.txt", "batch.pt", "monitors.png"}
    assert {file.name for file in path.iterdir()} == names
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    text = (path / "report.txt").read_text(encoding="utf-8")
    assert explain(alarm) in text and all(name in text for name in MONITORS)
    assert "monitors.png" in text and "pip install" not in text
    assert (path / "monitors.png").read_bytes().startswith(b"\x89PNG")
    batch = torch.load(path / "batch.pt", weights_only=True)
    assert batch.pop("utterance_ids") == ids
    assert batch["log_probs"].dtype == torch.float16
    torch.testing.assert_close(
        batch.pop("log_probs").float(), label.log_probs, rtol=1e-3, atol=1e-3
    )
    assert batch.keys() == {"lengths", "tokens", "token_lengths", "weight"}
    for name, value in batch.items():
        assert torch.equal(value, getattr(label, name))
        assert value.untyped_storage().nbytes() == value.nbytes


def test_a_report_replaces_what_was_left(tmp_path) -> None:
    guard, alarm = alarmed()
    label = make_label(make_log_probs(1, 4, 3), torch.tensor([4]))
    name = f"step{alarm.step}"
    for left in (name, f".{name}.tmp"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "stale.txt").write_text("x")
    path = write_report(tmp_path, alarm, guard, label, ["a"])
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert not (path / "stale.txt").exists() and (path / "report.txt").exists()


def test_a_failed_report_leaves_the_old_one(tmp_path, monkeypatch) -> None:
    guard, alarm = alarmed()
    label = make_label(make_log_probs(1, 4, 3), torch.tensor([4]))
    path = write_report(tmp_path, alarm, guard, label, ["old"])

    def fail(*args) -> bool:
        raise OSError("no space left")

    monkeypatch.setattr(diagnosis, "_plot", fail)
    with pytest.raises(OSError, match="no space"):
        write_report(tmp_path, alarm, guard, label, ["new"])
    batch = torch.load(path / "batch.pt", weights_only=True)
    assert batch["utterance_ids"] == ["old"]


def test_a_report_without_matplotlib(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    guard, alarm = alarmed()
    label = make_label(make_log_probs(1, 4, 3), torch.tensor([4]))
    path = write_report(tmp_path, alarm, guard, label, ["a"])
    assert {file.name for file in path.iterdir()} == {"report.txt", "batch.pt"}
    assert "matplotlib is not installed" in (path / "report.txt").read_text()
