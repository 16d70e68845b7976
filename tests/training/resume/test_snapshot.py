"""Snapshots: what is captured comes back, what belongs elsewhere is refused by name."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from espnet2.schedulers.piecewise_linear_warmup_lr import PiecewiseLinearWarmupLR
from espnet2.train.reporter import SubReporter

from espnet_softpl.core.errors import UserError
from espnet_softpl.training.resume import snapshot
from espnet_softpl.training.resume.layout import STATE_VERSION
from espnet_softpl.training.resume.snapshot import Training
from espnet_softpl.training.task import SoftPLTask
from tests.support.espnet_runs import PL, Data, config, load, make_data, train


class Engine:
    """What a snapshot asks of an engine, and a cache that says what it may forget."""

    def __init__(self) -> None:
        self.value, self.healthy_epoch, self.samples = 0, None, None
        self.cache = self
        self.kept: list[list[int]] = []

    def state_dict(self, student: torch.nn.Module, cache: bool = True) -> dict:
        return {"value": self.value, "cache": self.value if cache else None}

    def load_state_dict(self, state, student, back_off: bool = False) -> None:
        if state["value"] < 0:
            raise ValueError("pl_teacher: saved by another teacher")
        self.value, self.back_off = state["value"], back_off

    def forget_files(self, states: list[int]) -> None:
        self.kept.append(states)


def build(output_dir: Path, epoch: int = 1) -> Training:
    model = torch.nn.Linear(2, 2)
    model.pl = Engine()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    reporter = SubReporter("train", epoch, 0)
    return Training(model, output_dir, epoch, [optimizer], [scheduler], None, reporter)


def step(training: Training) -> None:
    """Train on a mini-batch."""
    loss = (training.model.weight * torch.randn(2, 2)).sum()
    loss.backward()
    training.optimizers[0].step()
    training.optimizers[0].zero_grad()
    training.schedulers[0].step()
    training.model.pl.value += 1
    training.reporter.register({"loss": loss.detach(), "none": float("nan")})
    training.reporter.next()


def names(output_dir: Path) -> set[str]:
    return {path.name for path in (output_dir / "pl_state").iterdir()}


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(tmp_path) -> None:
    first, second = build(tmp_path), build(tmp_path)
    for _ in range(3):
        step(first)
    snapshot.save(
        first,
        snapshot.INTERRUPTION,
        "3batches",
        reporter=snapshot.reporter_state(first.reporter, 3),
        random=snapshot.plain_random_state(snapshot.random_state()),
    )
    assert names(tmp_path) == {"1epoch.3batches.rank0.pth"}
    assert snapshot.find_interruption(tmp_path, 1) == 3
    assert snapshot.find_interruption(tmp_path, 2) is None
    step(first)
    state = snapshot.load(second, "3batches")
    snapshot.set_random_state(state["random"])
    step(second)
    assert torch.equal(first.model.weight, second.model.weight)
    assert first.schedulers[0].state_dict() == second.schedulers[0].state_dict()
    assert first.model.pl.value == second.model.pl.value == 4
    assert second.reporter.get_total_count() == first.reporter.get_total_count()
    values = [[v.value for v in t.reporter.stats["loss"]] for t in (first, second)]
    assert values[0] == values[1] and len(values[0]) == 4


def test_a_back_off_leaves_the_schedule_and_the_statistics(tmp_path) -> None:
    training = build(tmp_path)
    snapshot.save_healthy(training)
    weight = training.model.weight.clone()
    for _ in range(3):
        step(training)
    lr = training.schedulers[0].state_dict()
    state = snapshot.load(training, snapshot.HEALTHY, back_off=True)
    assert torch.equal(training.model.weight, weight) and training.model.pl.back_off
    assert state["cache"] is None and training.schedulers[0].state_dict() == lr
    # Schedules such as this one multiply the rate that the optimizer has.
    assert training.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)
    assert len(training.reporter.stats["loss"]) == 3


def test_learning_rates_of_numpy_can_be_loaded(tmp_path) -> None:
    training = build(tmp_path)
    scheduler = PiecewiseLinearWarmupLR(training.optimizers[0])
    training.schedulers = [scheduler]
    step(training)
    lr = training.optimizers[0].param_groups[0]["lr"]
    assert isinstance(lr, np.float64)
    snapshot.save(training, snapshot.INTERRUPTION, "1batches")
    step(training)
    snapshot.load(training, "1batches")
    assert training.optimizers[0].param_groups[0]["lr"] == lr


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("now", [False, True])
def test_mixed_precision_may_be_switched_in_an_epoch(tmp_path, before, now) -> None:
    """With `pl_allow_changed_resume`, as at an epoch's end."""
    training = build(tmp_path)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    training.scaler = scaler if before else None
    snapshot.save(training, snapshot.INTERRUPTION, "1batches")
    training.scaler = torch.amp.GradScaler("cpu") if now else None
    snapshot.load(training, "1batches")
    if now:
        assert training.scaler.get_scale() == (8.0 if before else 65536.0)


def test_only_what_can_be_needed_is_kept(tmp_path) -> None:
    training = build(tmp_path)
    for epoch in range(1, 5):
        training.epoch = training.model.pl.value = epoch
        if epoch != 3:
            snapshot.save_healthy(training)
        snapshot.save(training, (), f"{epoch}batches")
        snapshot.save(training, (), "9batches")
        snapshot.save_epoch_end(training)
    assert names(tmp_path) == {
        *("3epoch.rank0.pth", "4epoch.rank0.pth"),
        *("2epoch.healthy.rank0.pth", "4epoch.healthy.rank0.pth"),
    }
    # The cache keeps the files of the two epochs that may be resumed.
    assert training.model.pl.kept == [[1], [1, 2], [2, 3], [3, 4]]


def test_an_interruption_goes_before_the_labels_that_it_names(tmp_path) -> None:
    """Killed in between, the epoch begins anew from the end of the one before."""
    training = build(tmp_path)
    snapshot.save(training, (), "2batches")

    def killed(states: list[int]) -> None:
        raise KeyboardInterrupt

    training.model.pl.forget_files = killed
    with pytest.raises(KeyboardInterrupt):
        snapshot.save_epoch_end(training)
    assert snapshot.find_interruption(tmp_path, 1) is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"epoch": 7}, "has epoch 7, this run needs 1"),
        ({"world_size": 2}, "has world_size 2, this run needs 1"),
        ({"version": None}, f"has version None, this run needs {STATE_VERSION}"),
        ({"value": -1}, "pl_teacher: saved by another teacher"),
    ],
)
def test_a_state_that_belongs_elsewhere_is_refused(tmp_path, change, message) -> None:
    training = build(tmp_path)
    path = snapshot.save(training)
    torch.save({**load(path), **change}, path)
    with pytest.raises(UserError) as refused:
        snapshot.load(training)
    assert str(path) in str(refused.value) and message in str(refused.value)


def test_a_missing_state_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="1epoch.rank0.pth is missing, so the teacher"):
        snapshot.load(build(tmp_path))


def test_the_random_state_is_that_of_all_generators() -> None:
    state = snapshot.plain_random_state(snapshot.random_state())
    drawn = [torch.rand(1).item(), np.random.rand(), random.random()]
    snapshot.set_random_state(state)
    assert drawn == [torch.rand(1).item(), np.random.rand(), random.random()]


@pytest.mark.parametrize(("saved", "current"), [(None, 0), (None, 1), (8, 1), (8, 0)])
def test_a_machine_may_have_fewer_gpus_than_the_one_before(
    monkeypatch, saved, current
) -> None:
    """A process trains on one of them, whatever else it sees."""
    states = [torch.tensor([n], dtype=torch.uint8) for n in range(8)]
    restored = []
    for name, value in {
        "is_available": lambda: True,
        "get_rng_state": lambda: states[current],
        "get_rng_state_all": lambda: states,
        "current_device": lambda: current,
        "set_rng_state": restored.append,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    state = snapshot.plain_random_state(snapshot.random_state())
    if saved is not None:  # By an earlier version.
        state["cuda"] = states
    snapshot.set_random_state(state)
    assert restored == [states[current]]


@pytest.fixture
def data(tmp_path) -> Data:
    return make_data(tmp_path / "data")


def test_a_state_of_version_3_is_refused_in_one_clear_line(
    data, tmp_path, capsys
) -> None:
    """It held labels in the cache's memory, and the parts of an engine elsewhere."""
    options = config(**data.options(), **PL, max_epoch=1)
    exp = train(SoftPLTask, options, tmp_path / "exp")
    path = exp / "pl_state" / "1epoch.rank0.pth"
    torch.save({**load(path), "version": 3}, path)
    with pytest.raises(SystemExit) as stop:
        train(SoftPLTask, options, exp, "--max_epoch", "2", "--resume", "true")
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"{path} has version 3, this run needs {STATE_VERSION}" in error
    assert "Another version of espnet_softpl wrote it" in error
    assert "--init_param" in error and "Traceback" not in error
