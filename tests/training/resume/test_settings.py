"""A run is resumed with the settings and data that it began with."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pytest

from espnet_softpl.core.errors import UserError
from espnet_softpl.training.resume import settings
from espnet_softpl.training.task import SoftPLTask
from tests.support.espnet_runs import PL, Data, config, make_data, train


def of(**options) -> dict[str, str]:
    return settings.fingerprint(argparse.Namespace(**options))


def test_what_is_safe_to_change_is_left_out() -> None:
    found = of(seed=1, optim_conf={"lr": 0.1}, max_epoch=9, valid_batch_size=3)
    assert found == {"seed": "1", "optim_conf.lr": "0.1"}
    assert of(encoder_conf={"a": {"b": [1, 2]}}) == {"encoder_conf.a.b": "[1, 2]"}


def test_of_a_file_the_contents_count_not_the_place(tmp_path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a a.wav\n")
    shutil.copy(one, two)
    data = [of(train=[[str(file), "speech", "sound"]]) for file in (one, two)]
    assert data[0] == data[1] and set(data[0]) == {
        "train 1 1",
        "train 1 2",
        "train 1 3",
    }
    two.write_text("a b.wav\n")
    assert of(train=[[str(two), "speech", "sound"]]) != data[0]
    assert of(shape=[str(one)]) != of(shape=[str(two)])


def test_changes_are_named_and_refused_unless_allowed(tmp_path, caplog) -> None:
    settings.check(tmp_path, {"seed": "1", "x": "2"}, resume=True, allow=False)
    # Nothing has been trained yet: it is the beginning.
    settings.check(tmp_path, {"seed": "2", "x": "2"}, resume=True, allow=False)
    (tmp_path / "pl_state" / "1epoch.rank0.pth").touch()
    settings.check(tmp_path, {"seed": "2", "x": "2"}, resume=True, allow=False)
    # A later version has one more option, which is not set.
    later = {"seed": "2", "x": "2", "new": "null"}
    settings.check(tmp_path, later, resume=True, allow=False)
    with pytest.raises(UserError, match=r"now\): seed: 2 -> 3; x: 2 -> not set\. Put"):
        settings.check(tmp_path, {"seed": "3"}, resume=True, allow=False)
    settings.check(tmp_path, {"seed": "3"}, resume=True, allow=True)
    assert "changed settings: seed: 2 -> 3; x: 2 -> not set" in caplog.text
    written = json.loads((tmp_path / "pl_state" / "settings.json").read_text())
    assert written == {"seed": "3"}
    for damaged in (b'{"seed": "3', b"[3]", b'{"s\xffed": "3"}'):
        (tmp_path / "pl_state" / "settings.json").write_bytes(damaged)
        with pytest.raises(UserError, match=r"settings.json is damaged"):
            settings.check(tmp_path, {"seed": "3"}, resume=True, allow=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    options = config(**data.options(), **PL, max_epoch=1)
    return train(SoftPLTask, options, tmp_path_factory.mktemp("run") / "exp")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--seed", "7"), "seed: 0 -> 7"),
        (("--pl_criterion", "soft_ce"), 'pl_criterion: "hard_ctc" -> "soft_ce"'),
        (("--optim", "sgd"), 'optim: "adam" -> "sgd"'),
        (("--encoder_conf", "output_size=32"), "encoder_conf.output_size: 16 -> 32"),
        (("--pl_guard_conf", "patience=9"), "pl_guard_conf.patience: not set -> 9"),
        (
            ("--pl_cache", "slimipl", "--pl_cache_conf", "size=1"),
            'pl_cache: "none" -> "slimipl"',
        ),
        (("--accum_grad", "2"), "accum_grad: 1 -> 2"),
    ],
)
def test_another_experiment_is_not_resumed(
    data, trained, tmp_path, capsys, changes, message
) -> None:
    exp = tmp_path / "exp"
    shutil.copytree(trained, exp)
    options = config(**data.options(), **PL, max_epoch=2)
    with pytest.raises(SystemExit) as end:
        train(SoftPLTask, options, exp, "--resume", "true", *changes)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert "cannot resume" in error and message in error and "Traceback" not in error


def test_other_unlabeled_data_are_another_experiment(trained, tmp_path, capsys) -> None:
    exp, data = tmp_path / "exp", make_data(tmp_path / "data")
    shutil.copytree(trained, exp)
    options = config(**data.options(), **PL, max_epoch=2)
    with pytest.raises(SystemExit):
        train(SoftPLTask, options, exp, "--resume", "true")
    assert "unlabeled_data_path_and_name_and_type 1 1: contents" in (
        capsys.readouterr().err
    )
    allow = ("--pl_allow_changed_resume", "true")
    train(SoftPLTask, options, exp, "--resume", "true", *allow)
    assert (exp / "2epoch.pth").exists()
