"""What can happen to a training: each fault is a counted skip or a clear stop.

The faults come from a criterion, which is called in the middle of a training step.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from espnet_softpl.criteria import HardCTC
from espnet_softpl.training.task import SoftPLTask
from tests import ROOT, python_path
from tests.end_to_end.test_training import SLIMIPL, compare_runs
from tests.support import warm_python
from tests.support.disks import fill, remount
from tests.support.espnet_runs import PL, Data, config, load, make_data, train

FAULTS: list[Callable[[], None]] = []  # One for each unlabeled step, in order.


class Faulty(HardCTC):
    """CTC on hard labels, with a fault at chosen steps."""

    def forward(self, log_probs, lengths, pseudo_label):
        """Let the next fault happen, if there is one."""
        losses = super().forward(log_probs, lengths, pseudo_label)
        fault = FAULTS.pop(0) if FAULTS else None
        return losses if fault is None else fault(losses)


def nothing(losses: torch.Tensor) -> torch.Tensor:
    return losses


@pytest.fixture(autouse=True)
def no_faults() -> Iterator[None]:
    FAULTS.clear()
    yield
    FAULTS.clear()


@pytest.fixture
def data(tmp_path) -> Data:
    return make_data(tmp_path / "data")


def faulty(data: Data, **changes) -> dict:
    options = config(**{**data.options(), **PL, "max_epoch": 3, **changes})
    options["pl_criterion"] = "tests.training.resume.test_faults:Faulty"
    options["pl_filter_conf"] = {"min_tokens": 0}
    return options


def reported(exp: Path, key: str) -> list[float]:
    stats = load(exp / "checkpoint.pth")["reporter"]["stats"]
    return [stats[epoch]["train"][key] for epoch in sorted(stats)]


def test_a_loss_that_is_not_finite_is_counted_and_left_out(data, tmp_path) -> None:
    def spoil(losses: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.arange(len(losses)) == 0, torch.nan, losses)

    FAULTS[:] = [nothing, spoil]
    exp = train(SoftPLTask, faulty(data), tmp_path / "exp")
    unusable = reported(exp, "pl_unusable")
    assert max(unusable[:2]) == pytest.approx(1 / 8) and unusable[2] == 0.0
    assert np.isfinite(reported(exp, "loss_pl")).all()
    assert all(w.isfinite().all() for w in load(exp / "latest.pth").values())


def test_an_infinite_gradient_skips_the_update_and_the_teacher(data, tmp_path) -> None:
    def spoil(losses: torch.Tensor) -> torch.Tensor:
        return losses + _overflow(losses)

    options = faulty(
        data, max_epoch=1, pl_schedule_conf={"form": "interleaved", "labeled_steps": 0}
    )
    FAULTS[:] = [nothing, spoil]
    exp = train(SoftPLTask, options, tmp_path / "exp")
    state = load(exp / "pl_state" / "1epoch.rank0.pth")
    assert state["teacher"]["updates"] == 3  # Of four steps.
    for name in ("latest.pth", "teacher.pth"):
        assert all(w.isfinite().all() for w in load(exp / name).values())


def test_an_update_without_any_label_is_left_out(data, tmp_path, caplog) -> None:
    """No weight decay, moments, learning rate or teacher: nothing was learned."""
    caplog.set_level("INFO")
    options = faulty(
        data,
        max_epoch=1,
        num_iters_per_epoch=6,
        optim="adamw",
        scheduler="warmuplr",
        scheduler_conf={"warmup_steps": 10},
        pl_schedule_conf={"form": "interleaved", "start_step": 2, "labeled_steps": 0},
    )
    options["pl_filter_conf"] = {"min_tokens": 10_000}
    exp = train(SoftPLTask, options, tmp_path / "exp", "--log_level", "INFO")
    state = load(exp / "checkpoint.pth")
    assert {int(s["step"]) for s in state["optimizers"][0]["state"].values()} == {2}
    assert state["schedulers"][0]["_step_count"] == 3  # Counted from 1.
    assert "step" not in state["schedulers"][0]
    assert load(exp / "pl_state" / "1epoch.rank0.pth")["teacher"]["updates"] == 0
    assert "4 updates were left out" in caplog.text


class _Overflow(torch.autograd.Function):
    """The value 0 with an infinite gradient."""

    @staticmethod
    def forward(ctx, losses):
        return torch.zeros_like(losses)

    @staticmethod
    def backward(ctx, gradient):
        return torch.full_like(gradient, torch.inf)


_overflow = _Overflow.apply


def test_audio_that_goes_bad_is_counted_and_left_out(data, tmp_path) -> None:
    """Vanished, cut off, empty, one sample long, not a number: the run goes on."""
    files = sorted((data.root / "unlabeled").glob("*.wav"))
    soundfile.write(files[2], np.zeros(0), 16000)
    soundfile.write(files[3], np.zeros(1), 16000)
    audio = np.full(9000, np.nan, dtype=np.float32)

    def spoil(losses: torch.Tensor) -> torch.Tensor:
        files[0].unlink()
        files[1].write_bytes(files[1].read_bytes()[:100])
        soundfile.write(files[4], audio, 16000, subtype="FLOAT")
        return losses

    FAULTS[:] = [nothing, spoil]
    options = faulty(data, pl_max_bad_share=0.5, max_epoch=5, num_workers=1)
    options["pl_schedule_conf"] = dict(labeled_steps=1, unlabeled_steps=3)
    exp = train(SoftPLTask, options, tmp_path / "exp")
    assert 0.0 < max(reported(exp, "pl_unusable")) < 0.5
    assert np.isfinite(reported(exp, "loss")).all()
    assert all(w.isfinite().all() for w in load(exp / "latest.pth").values())
    lengths = (exp / "unlabeled_shape").read_text()
    for index, there in enumerate([1, 1, 0, 0, 1]):
        assert (f"unlabeled-{index:03d} " in lengths) == bool(there)


def test_audio_that_vanished_does_not_change_a_resumed_run(data, tmp_path, capsys):
    """The mini-batches stay those that the run began with."""
    options = faulty(data, pl_max_bad_share=0.2, **SLIMIPL)
    exp = train(SoftPLTask, options, tmp_path / "exp", "--max_epoch", "1")
    lengths = (exp / "unlabeled_shape").read_text()
    (data.root / "unlabeled" / "unlabeled-003.wav").unlink()
    train(SoftPLTask, options, exp, "--resume", "true")
    assert (exp / "unlabeled_shape").read_text() == lengths
    scp = Path(data.path("unlabeled", "wav.scp"))
    scp.write_text("".join(scp.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(SystemExit) as stop:
        train(SoftPLTask, options, exp, "--resume", "true", "--max_epoch", "4")
    assert stop.value.code == 2
    assert "are not in unlabeled_data_path" in capsys.readouterr().err


def test_a_disk_that_went_away_stops_the_run(data, tmp_path, capsys) -> None:
    def unmount(losses: torch.Tensor) -> torch.Tensor:
        shutil.rmtree(data.root / "unlabeled")
        return losses

    FAULTS[:] = [nothing, unmount]
    options = faulty(data, num_iters_per_epoch=200)
    with pytest.raises(SystemExit) as stop:
        train(SoftPLTask, options, tmp_path / "exp")
    assert stop.value.code == 2
    assert "unlabeled" in capsys.readouterr().err


def test_labeled_audio_that_vanishes_stops_the_run(data, tmp_path, capsys) -> None:
    def vanish(losses: torch.Tensor) -> torch.Tensor:
        for file in (data.root / "labeled").glob("*.wav"):
            file.unlink()
        return losses

    FAULTS[:] = [vanish]
    with pytest.raises(SystemExit) as stop:
        train(SoftPLTask, faulty(data, num_workers=1), tmp_path / "exp")
    assert stop.value.code == 2
    assert "labeled-0" in capsys.readouterr().err
    assert not multiprocessing.active_children()  # Nothing to wait for.


def run_apart(module: str, call: str) -> subprocess.CompletedProcess:
    """Call a function of a test module in a process of its own.

    torch raises the death of a loader's process wherever the interpreter happens to
    be when the signal comes, once for each, and late: that must not be in pytest.
    """
    return subprocess.run(
        [warm_python.executable(), "-"],
        input=f"from tests.training.resume import {module}; {module}.{call}",
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": python_path()},
        capture_output=True,
        text=True,
        timeout=300,
    )


def train_with_a_killed_loader(root: str, exp: str) -> None:
    """Train; the loaders' processes are killed at the 13th unlabeled step.

    The training notices the death of one while it waits for data, as it does where
    memory has run out, and hears of the other when it is about to end.
    """

    late = threading.Event()

    def kill(losses: torch.Tensor) -> torch.Tensor:
        tell = signal.getsignal(signal.SIGCHLD)
        signal.signal(signal.SIGCHLD, lambda *what: late.is_set() and tell(*what))
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        return losses

    FAULTS[:] = [nothing] * 12 + [kill]
    options = faulty(Data(Path(root)), **KILLED_LOADER)
    try:
        train(SoftPLTask, options, Path(exp), "--resume", "true")
    except SystemExit:
        late.set()
        signal.raise_signal(signal.SIGCHLD)
        raise


KILLED_LOADER = dict(num_workers=1, num_iters_per_epoch=20)


@pytest.mark.slow
def test_a_killed_loader_stops_the_run_which_resumes(data, tmp_path) -> None:
    options = faulty(data, **KILLED_LOADER)
    whole = train(SoftPLTask, options, tmp_path / "whole")
    exp = tmp_path / "exp"
    call = f"train_with_a_killed_loader({str(data.root)!r}, {str(exp)!r})"
    killed = run_apart("test_faults", call)
    assert killed.returncode == 4, killed.stderr
    assert "a data loading process has died" in killed.stderr
    train(SoftPLTask, options, exp, "--resume", "true")
    compare_runs(whole, exp, epochs=3)


@pytest.mark.slow
def test_a_full_disk_stops_the_run_which_resumes(
    data, tmp_path, small_disk, capsys
) -> None:
    options = faulty(data, **SLIMIPL)
    whole = train(SoftPLTask, options, tmp_path / "whole")
    exp = train(SoftPLTask, options, small_disk / "exp", "--max_epoch", "1")
    before = {path: path.read_bytes() for path in exp.rglob("*.pth")}
    fill(small_disk, 60_000)
    with pytest.raises(SystemExit) as stop:
        train(SoftPLTask, options, exp, "--resume", "true")
    assert stop.value.code == 4
    assert "could not be written to" in capsys.readouterr().err
    there = {path for path in before if path.exists()}
    assert all(path.read_bytes() == before[path] for path in there)
    assert exp / "checkpoint.pth" in there and not list(exp.rglob(".*.tmp"))
    (small_disk / "filler").unlink()
    remount(small_disk, "size=20m")
    train(SoftPLTask, options, exp, "--resume", "true")
    compare_runs(whole, exp, epochs=3)


def test_a_read_only_directory_is_refused_at_once(data, small_disk, capsys) -> None:
    remount(small_disk, "ro")
    with pytest.raises(SystemExit) as stop:
        out = ("--output_dir", str(small_disk / "exp"))
        train(SoftPLTask, faulty(data), data.root / "exp", *out)
    assert stop.value.code == 2
    assert "cannot be written to" in capsys.readouterr().err


def test_dropout_that_is_not_there_is_refused(data, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        options = faulty(data, pl_schedule_conf={"layer_drop": 0.1})
        train(SoftPLTask, options, tmp_path / "exp")
    assert stop.value.code == 2
    assert "layer_drop is 0.1, but the model" in capsys.readouterr().err
