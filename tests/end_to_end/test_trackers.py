"""TensorBoard and Weights & Biases get the statistics."""

from __future__ import annotations

import sys
import types

import pytest

from espnet_softpl.monitors.statistics import ALWAYS
from espnet_softpl.training.task import SoftPLTask
from tests.support.espnet_runs import PL, Data, config, load, make_data, train


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


def test_tensorboard_gets_the_statistics(data, tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = config(**data.options(), **PL, use_tensorboard=True, log_interval=4)
    exp = train(SoftPLTask, options, tmp_path / "exp")
    events = EventAccumulator(str(exp / "tensorboard" / "train"))
    events.Reload()
    assert {each.name for each in ALWAYS} <= set(events.Tags()["scalars"])
    saved = load(exp / "checkpoint.pth")["reporter"]["stats"][2]["train"]["pl_cer"]
    assert events.Scalars("pl_cer")[-1].value == pytest.approx(saved)
    tables = events.Tensors("pl_samples/text_summary")
    assert [event.step for event in tables] == [1, 2]
    (table,) = tables[-1].tensor_proto.string_val
    assert table.startswith(b"| step | utterance | label |")


def test_weights_and_biases_gets_the_statistics(data, tmp_path, monkeypatch) -> None:
    """A stand-in for the module records what ESPnet's reporter logs."""
    logged: list[dict] = []
    wandb = types.ModuleType("wandb")
    wandb.login = wandb.finish = lambda *args, **kwargs: None
    wandb.init = wandb.login
    wandb.config, wandb.run = types.SimpleNamespace(update=print), None
    wandb.errors = types.SimpleNamespace(UsageError=RuntimeError)
    wandb.log = logged.append
    wandb.Table = lambda columns, data: data
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr("espnet2.tasks.abs_task.wandb", wandb)
    options = config(**data.options(), **PL, use_wandb=True, log_interval=4)
    exp = train(SoftPLTask, options, tmp_path / "exp")
    epochs = [entry for entry in logged if "epoch" in entry]
    steps = [entry for entry in logged if "iteration" in entry]
    assert len(epochs) == 2 and len(steps) >= 2
    for name in (each.name for each in ALWAYS):
        assert f"train/train_{name}_epoch" in epochs[-1], name
        assert f"metrics/{name}" in steps[-1], name
    tables = [entry["pl_samples"] for entry in logged if "pl_samples" in entry]
    assert len(tables) == 2 and all(tables)
    saved = load(exp / "checkpoint.pth")["reporter"]["stats"][2]["train"]["pl_cer"]
    assert epochs[-1]["train/train_pl_cer_epoch"] == saved
