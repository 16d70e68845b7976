"""The guard in ESPnet's own trainer: warn, stop, back off, and resume in between."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from espnet_softpl.monitors.guard import MONITORS
from espnet_softpl.training.task import SoftPLTask
from tests.support.espnet_runs import (
    PL,
    Data,
    config,
    load,
    make_data,
    same_tensors,
    train,
)
from tests.training.test_model import make_model

# Nothing can go on as long as this guard wants: every monitor but one is let go, and
# the entropy may not be above a level that any model exceeds.
KINDS = ("lowest", "highest", "below", "above", "rise")
OFF = {name: dict.fromkeys(KINDS) for name in MONITORS}
STRICT = dict(
    reference_steps=2,
    window=1,
    patience=2,
    limits={**OFF, "pl_frame_entropy": {"highest": None, "above": 1e-6}},
)
SCHEDULE = dict(form="interleaved", labeled_steps=1, unlabeled_steps=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


def options(data: Data, guard: str, **changes) -> dict:
    conf = dict(STRICT, **changes.pop("guard_conf", {}))
    base = dict(PL, pl_schedule_conf=SCHEDULE, pl_guard=guard, pl_guard_conf=conf)
    base.update(num_iters_per_epoch=6, max_epoch=3, pl_filter_conf={"min_tokens": 0})
    return config(**data.options(), **{**base, **changes})


def weights(exp: Path) -> dict:
    return load(exp / "latest.pth")


@pytest.mark.slow
def test_a_warning_changes_no_weight_and_writes_a_report(
    data, tmp_path, caplog
) -> None:
    warned = train(SoftPLTask, options(data, "warn"), tmp_path / "warn")
    assert "pl_frame_entropy" in caplog.text
    reports = list((warned / "pl_collapse").iterdir())
    assert len(reports) == 1  # It warns once, as long as it lasts.
    written = {file.name for file in reports[0].iterdir()}
    assert written == {"report.txt", "batch.pt", "monitors.png"}
    batch = torch.load(reports[0] / "batch.pt", weights_only=True)
    assert all(name.startswith("unlabeled-") for name in batch["utterance_ids"])
    silent = train(SoftPLTask, options(data, "none", pl_guard_conf={}), tmp_path / "no")
    assert same_tensors(weights(warned), weights(silent))
    assert not (silent / "pl_collapse").exists()


@pytest.mark.slow
def test_a_stop_ends_the_run_and_keeps_what_there_is(data, tmp_path, capsys) -> None:
    # Epochs of 6 steps with 4 unlabeled ones: the fifth unlabeled one is in epoch 2.
    guard_conf = dict(reference_steps=1, patience=5)
    with pytest.raises(SystemExit) as ended:
        train(
            SoftPLTask, options(data, "stop", guard_conf=guard_conf), tmp_path / "exp"
        )
    assert ended.value.code == 3
    message = capsys.readouterr().err
    assert "training is stopped" in message and "pl_frame_entropy" in message
    exp = tmp_path / "exp"
    assert (exp / "checkpoint.pth").exists() and (exp / "1epoch.pth").exists()
    assert load(exp / "checkpoint.pth")["reporter"]["epoch"] == 1


@pytest.mark.slow
def test_backing_off_goes_on_with_less_weight(data, tmp_path) -> None:
    guard_conf = dict(max_back_offs=2, lower_weight=0.25)
    with pytest.raises(SystemExit) as ended:
        train(
            SoftPLTask,
            options(data, "back_off", guard_conf=guard_conf),
            tmp_path / "exp",
        )
    assert ended.value.code == 3  # This one can never be satisfied.
    reports = sorted((tmp_path / "exp" / "pl_collapse").iterdir())
    assert len(reports) == 3


def once(data: Data, **changes) -> dict:
    """Options of a guard that backs off when the entropy falls, as it must."""
    return options(
        data,
        "back_off",
        guard_conf=dict(
            reference_steps=3,
            patience=1,
            max_back_offs=99,
            limits={**OFF, "pl_frame_entropy": {"highest": None, "lowest": 0.9}},
        ),
        max_epoch=4,
        **changes,
    )


@pytest.mark.slow
def test_backing_off_returns_to_the_healthy_epoch(data, tmp_path) -> None:
    # lower_weight 0: after a back-off the unlabeled loss is gone, labeled steps go on.
    settings = once(data, optim_conf=dict(lr=0.02))
    settings["pl_guard_conf"]["lower_weight"] = 0.0
    exp = train(SoftPLTask, settings, tmp_path / "exp")
    stats = load(exp / "checkpoint.pth")["reporter"]["stats"]
    assert stats[4]["train"]["pl_weight"] == 0.0
    state = torch.load(exp / "pl_state" / "4epoch.rank0.pth", weights_only=True)
    assert state["guard"]["back_offs"] >= 1
    kept = sorted(p.name for p in (exp / "pl_state").glob("*healthy*"))
    assert 1 <= len(kept) <= 2
    assert f"{state['healthy_epoch']}epoch.healthy.rank0.pth" in kept


@pytest.mark.slow
def test_a_run_that_backed_off_resumes_exactly(data, tmp_path) -> None:
    changes = dict(
        optim_conf=dict(lr=0.02),
        pl_criterion="sampled_ctc",
        pl_criterion_conf={"temperature": {"from": 2.0, "to": 0.5, "steps": 20}},
        pl_shaping=["align"],
        pl_separate_head=True,
    )
    whole = train(SoftPLTask, once(data, **changes), tmp_path / "whole")
    assert list((whole / "pl_collapse").iterdir())
    parts = tmp_path / "parts"
    for epochs in (1, 2, 3, 4):
        settings = dict(once(data, **changes), max_epoch=epochs)
        train(SoftPLTask, settings, parts, "--resume", "true")
    assert same_tensors(weights(whole), weights(parts))
    assert same_tensors(load(whole / "teacher.pth"), load(parts / "teacher.pth"))
    states = [
        torch.load(exp / "pl_state" / "4epoch.rank0.pth", weights_only=True)
        for exp in (whole, parts)
    ]
    # As text, for a monitor may be NaN, which equals nothing.
    assert repr(states[0]["guard"]) == repr(states[1]["guard"])
    assert states[0]["healthy_epoch"] == states[1]["healthy_epoch"]
    assert same_tensors(states[0]["head"], states[1]["head"])


@pytest.mark.parametrize(
    "guard", ["none", pytest.param("warn", marks=pytest.mark.slow)]
)
def test_a_model_that_is_no_number_ends_with_status_3(
    data, tmp_path, guard, capsys
) -> None:
    state = make_model().state_dict()
    broken = {
        k: v * float("nan") if v.is_floating_point() else v for k, v in state.items()
    }
    torch.save(broken, tmp_path / "nan.pth")
    settings = dict(PL, pl_guard=guard, init_param=[str(tmp_path / "nan.pth")])
    with pytest.raises(SystemExit) as ended:
        train(SoftPLTask, config(**data.options(), **settings), tmp_path / "exp")
    assert ended.value.code == 3
    message = capsys.readouterr().err
    assert "the numbers are broken" in message and "weights of the" in message
    assert not (tmp_path / "exp" / "1epoch.pth").exists()
