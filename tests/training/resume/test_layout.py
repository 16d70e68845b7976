"""ESPnet's checkpoints are read without running code from them."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from espnet_softpl.bin import export, label
from espnet_softpl.training.resume.layout import load_checkpoint
from espnet_softpl.training.task import SoftPLTask
from tests.end_to_end.test_training import SLIMIPL
from tests.support.espnet_runs import Data, config, flip_bit, make_data, train
from tests.training.resume.test_faults import FAULTS, faulty, nothing


def test_every_scheduler_and_optimizer_of_espnet_can_be_loaded(tmp_path) -> None:
    """No checkpoint of ESPnet's holds anything that would have to run code."""
    from espnet2.tasks.abs_task import optim_classes, scheduler_classes

    conf: dict[str, dict[str, Any]] = {
        "lambdalr": dict(lr_lambda=lambda step: 1.0),
        "steplr": dict(step_size=2),
        "multisteplr": dict(milestones=[2]),
        "exponentiallr": dict(gamma=0.9),
        "cosineannealinglr": dict(T_max=3),
        "noamlr": dict(model_size=256),
        "cycliclr": dict(base_lr=0.1, max_lr=0.2),
        "onecyclelr": dict(max_lr=0.1, total_steps=10),
        "cosineannealingwarmrestarts": dict(T_0=3),
        "cosineannealingwarmuprestarts": dict(first_cycle_steps=10),
        "tristagelr": dict(max_steps=10),
        "piecewiselinearwarmuplr": dict(
            warmup_steps_list=[0, 10], warmup_lr_list=[0.0, 1e-3]
        ),
        "exponentialdecaywarmup": dict(
            max_lr=0.1, min_lr=0.01, total_steps=10, warmup_steps=2
        ),
    }
    weight = torch.nn.Parameter(torch.ones(3))
    for cls in optim_classes.values():
        optimizer = cls([weight], lr=0.1)
        weight.grad = torch.ones(3)
        optimizer.step(lambda: weight.sum())
        torch.save({"state": optimizer.state_dict()}, tmp_path / "checkpoint.pth")
        assert load_checkpoint(tmp_path / "checkpoint.pth")["state"]["param_groups"]
    for name, cls in scheduler_classes.items():
        optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
        state = cls(optimizer, **conf.get(name, {})).state_dict()
        torch.save({"state": state}, tmp_path / "checkpoint.pth")
        assert (
            load_checkpoint(tmp_path / "checkpoint.pth")["state"].keys() == state.keys()
        )


def tear(path: Path) -> None:
    """Cut the end off."""
    path.write_bytes(path.read_bytes()[:-50])


HARMS = [flip_bit, pytest.param(tear, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> tuple[Data, dict[str, Any], Path]:
    """A training with a cache that was told to stop in its second epoch."""
    root = tmp_path_factory.mktemp("stopped")
    data = make_data(root / "data")
    options = faulty(data, keep_nbest_models=2, num_iters_per_epoch=6, **SLIMIPL)

    def stop(losses: torch.Tensor) -> torch.Tensor:
        signal.raise_signal(signal.SIGTERM)
        return losses

    FAULTS[:] = [*[nothing] * 4, stop]
    with pytest.raises(SystemExit):
        train(SoftPLTask, options, root / "exp")
    return data, options, root / "exp"


@pytest.mark.parametrize(
    "name",
    [
        "checkpoint.pth",
        "pl_state/1epoch.rank0.pth",
        "pl_state/2epoch.*batches.rank0.pth",
        "pl_cache/rank0/segment*.bin",
        "1epoch.pth",
    ],
)
@pytest.mark.parametrize("harm", HARMS)
def test_what_is_damaged_is_not_resumed(
    stopped, tmp_path, capsys, name: str, harm: Callable[[Path], None]
) -> None:
    data, options, saved = stopped
    exp = tmp_path / "exp"
    shutil.copytree(saved, exp, symlinks=True)
    for path in (found := list(exp.glob(name))):
        harm(path)
    with pytest.raises(SystemExit) as end:
        train(SoftPLTask, options, exp, "--resume", "true")
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert any(path.name in error for path in found), error
    assert "Traceback" not in error


@pytest.mark.parametrize("harm", HARMS)
def test_a_model_that_is_damaged_is_refused(stopped, tmp_path, capsys, harm) -> None:
    data, _, saved = stopped
    exp, stock = tmp_path / "exp", config(**data.options(unlabeled=False))
    shutil.copytree(saved, exp, symlinks=True)
    harm(exp / "1epoch.pth")
    harm(exp / "pl_state/1epoch.rank0.pth")
    model, out = str(exp / "1epoch.pth"), str(tmp_path / "out")
    of = ["--asr_exp", str(exp), "--out", out]
    labels = [*of, "--wav_scp", data.path("unlabeled", "wav.scp"), "--student", model]

    def train_stock() -> None:
        train(SoftPLTask, stock, tmp_path / "stock", "--init_param", model)

    for command in (
        train_stock,
        lambda: export.main([*of, "--student", model]),
        lambda: export.main([*of, "--which", "teacher"]),
        lambda: label.main(labels),
    ):
        with pytest.raises(SystemExit) as end:
            command()
        assert end.value.code == 2
        error = capsys.readouterr().err
        assert "epoch" in error and "Traceback" not in error
        assert not Path(out).exists()


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_stock_training_is_not_resumed(
    stopped, tmp_path, capsys, harm
) -> None:
    stock = config(**stopped[0].options(unlabeled=False), keep_nbest_models=2)
    exp = train(SoftPLTask, {**stock, "max_epoch": 1}, tmp_path / "stock")
    for name in ("1epoch.pth", "checkpoint.pth"):
        whole = (exp / name).read_bytes()
        harm(exp / name)
        with pytest.raises(SystemExit) as end:
            train(SoftPLTask, stock, exp, "--resume", "true")
        assert end.value.code == 2
        error = capsys.readouterr().err
        assert name in error and "Traceback" not in error
        (exp / name).write_bytes(whole)
        shutil.rmtree(exp / "pl_state", ignore_errors=True)
