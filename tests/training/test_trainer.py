"""ESPnet's trainer with an engine for pseudo-labeling, and without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from espnet2.train import trainer as espnet_trainer

from espnet_softpl.core import processes
from espnet_softpl.training.resume import snapshot
from espnet_softpl.training.task import SoftPLTask
from espnet_softpl.training.trainer import SoftPLTrainer
from tests.support.espnet_runs import PL, Data, config, load, make_data, train
from tests.training.resume.test_faults import FAULTS, faulty
from tests.training.resume.test_interruption import interrupt


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


def written(exp: Path) -> set[str]:
    return {path.name for path in exp.iterdir()}


def test_mixed_precision_on_a_cpu_is_switched_off(data, tmp_path, caplog) -> None:
    caplog.set_level("INFO")
    options = config(**data.options(), **PL, max_epoch=1, use_amp=True)
    exp = train(SoftPLTask, options, tmp_path / "exp")
    assert "use_amp is for GPUs" in caplog.text
    assert "Pseudo-labeling is on" in caplog.text
    assert "Epoch 1 of 1: dev CER" in caplog.text
    assert load(exp / "checkpoint.pth")["scaler"] is None
    state = load(exp / "pl_state" / "1epoch.rank0.pth")
    assert state["epoch"] == 1 and "teacher.pth" in written(exp)
    assert not SoftPLTrainer.stop.is_set


def test_all_processes_have_saved_before_one_ends(data, tmp_path, monkeypatch) -> None:
    """Who has started them ends the others soon after the first."""
    order = []
    monkeypatch.setattr(processes, "wait_for_all", lambda: order.append("waited"))
    monkeypatch.setattr(snapshot, "save_interruption", lambda *_: order.append("saved"))
    FAULTS[:] = [interrupt]
    with pytest.raises(SystemExit):
        train(SoftPLTask, faulty(data), tmp_path / "exp")
    assert order == ["saved", "waited"]


def test_a_guard_may_be_told_to_back_off_in_an_epoch(data, tmp_path) -> None:
    options, exp = faulty(data, pl_guard="warn"), tmp_path / "exp"
    FAULTS[:] = [interrupt]
    with pytest.raises(SystemExit):
        train(SoftPLTask, options, exp)
    changed = dict(options, pl_guard="back_off", max_epoch=1)
    allow = ("--pl_allow_changed_resume", "true")
    train(SoftPLTask, changed, exp, "--resume", "true", *allow)
    assert (exp / "pl_state" / "0epoch.healthy.rank0.pth").exists()
    assert load(exp / "pl_state" / "1epoch.rank0.pth")["healthy_epoch"] == 0


def test_a_model_without_an_engine_is_trained_as_ever(data, tmp_path) -> None:
    options = config(**data.options(unlabeled=False), max_epoch=1)
    exp = train(SoftPLTask, options, tmp_path / "exp")
    assert "1epoch.pth" in written(exp)
    assert not {"pl_state", "pl_cache", "teacher.pth"} & written(exp)


def test_a_stock_training_that_dies_while_it_saves_can_be_resumed(
    data, tmp_path, monkeypatch
) -> None:
    options = config(**data.options(unlabeled=False), max_epoch=1)
    exp = train(SoftPLTask, options, tmp_path / "exp")
    save = torch.save

    def die(state, file, *more, **named) -> None:
        save(state, file, *more, **named)
        if isinstance(state, dict) and "reporter" in state:
            raise MemoryError  # With the file half written, for all that one knows.

    monkeypatch.setattr(torch, "save", die)
    again = ("--resume", "true", "--max_epoch", "2")
    with pytest.raises(MemoryError):
        train(SoftPLTask, options, exp, *again)
    assert list(load(exp / "checkpoint.pth")["reporter"]["stats"]) == [1]
    monkeypatch.undo()
    train(SoftPLTask, options, exp, *again)
    assert list(load(exp / "checkpoint.pth")["reporter"]["stats"]) == [1, 2]


def test_files_are_written_whole_only_while_it_trains(data, tmp_path) -> None:
    options = config(**data.options(), **{**PL, "pl_teacher": "student"}, max_epoch=1)
    options["pl_teacher_conf"] = {}
    exp = train(SoftPLTask, options, tmp_path / "exp")
    assert espnet_trainer.torch is torch
    # A teacher that is the student has no weights of its own.
    assert "teacher.pth" not in written(exp)
    assert not list(exp.rglob(".*.tmp"))


@pytest.mark.parametrize("unlabeled", [False, True])
def test_an_epoch_without_an_update_ends_with_status_3(
    data, tmp_path, monkeypatch, capsys, unlabeled
) -> None:
    pl = PL if unlabeled else {}
    options = config(**data.options(unlabeled=unlabeled), **pl, max_epoch=2)
    infinite = torch.tensor(float("inf"))
    monkeypatch.setattr(
        torch.nn.utils, "clip_grad_norm_", lambda *args, **named: infinite
    )
    with pytest.raises(SystemExit) as end:
        train(SoftPLTask, options, tmp_path / "exp")
    assert end.value.code == 3
    assert "epoch 1 made no update" in capsys.readouterr().err
    monkeypatch.undo()  # What stopped it is mended: it goes on.
    train(SoftPLTask, options, tmp_path / "exp", "--resume", "true")
    stats = load(tmp_path / "exp" / "checkpoint.pth")["reporter"]["stats"]
    assert list(stats) == [1, 2]
