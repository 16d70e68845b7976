"""Which file is the student, which state is the teacher's; what is no experiment."""

from __future__ import annotations

import dataclasses
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from espnet_softpl.commands.experiment import (
    Experiment,
    open_experiment,
    read_config,
)
from espnet_softpl.core.errors import UserError
from espnet_softpl.training.resume.checkpoints import begin_directory
from espnet_softpl.training.resume.layout import STATE_VERSION
from tests.support.espnet_runs import (
    load,
    same_tensors,
)


def chosen(directory: Path, **config: Any) -> str:
    """Name the file that is taken of an experiment."""
    return Experiment(directory, config).checkpoint().name


CTC_ONLY = {"model_conf": {"ctc_weight": 1.0}}


def test_parameters_are_chosen_by_the_head_that_labels(tmp_path) -> None:
    order = ["latest.pth", "3epoch.pth", "valid.loss.best.pth", "valid.acc.ave.pth"]
    names = []
    for name in (*order, "valid.cer_ctc.ave_5best.pth", "valid.cer_ctc.ave.pth"):
        (tmp_path / name).touch()
        names.append([chosen(tmp_path), chosen(tmp_path, **CTC_ONLY)])
    assert names[0] == names[1] == ["latest.pth", "latest.pth"]
    assert names[2] == ["valid.loss.best.pth"] * 2
    assert names[3] == ["valid.acc.ave.pth", "valid.loss.best.pth"]
    assert names[5] == ["valid.cer_ctc.ave.pth"] * 2
    for path in tmp_path.glob("[lv]*.pth"):
        path.unlink()
    assert chosen(tmp_path, **CTC_ONLY) == "3epoch.pth"


def test_a_criterion_of_the_experiments_own_comes_last(tmp_path) -> None:
    """Those of the training data say nothing of what is not trained on."""
    own = {
        "best_model_criterion": [["train", "wer_x", "min"], ["valid", "bleu", "max"]]
    }
    for name in ("latest.pth", "train.wer_x.ave.pth", "valid.bleu.best.pth"):
        (tmp_path / name).touch()
    assert chosen(tmp_path) == "latest.pth"
    assert chosen(tmp_path, **own) == "valid.bleu.best.pth"
    (tmp_path / "valid.loss.best.pth").touch()
    assert chosen(tmp_path, **own) == "valid.loss.best.pth"


def test_a_file_may_be_named_or_be_the_only_one(tmp_path) -> None:
    experiment = Experiment(tmp_path, {})
    with pytest.raises(UserError, match="holds no trained model.* nor latest.pth"):
        experiment.checkpoint()
    (tmp_path / "student.pth").touch()
    assert experiment.checkpoint().name == "student.pth"
    (tmp_path / "latest.pth").touch()
    (tmp_path / "valid.cer_ctc.best.pth").touch()
    (tmp_path / "valid.cer_ctc.ave.pth").symlink_to("gone.pth")
    assert experiment.checkpoint().name == "valid.cer_ctc.best.pth"
    assert experiment.checkpoint("latest.pth") == tmp_path / "latest.pth"
    assert experiment.checkpoint(str(tmp_path / "latest.pth")).name == "latest.pth"
    with pytest.raises(UserError, match="5epoch.pth is not in .*latest.pth"):
        experiment.checkpoint("5epoch.pth")


def teacher_of(path: Path) -> dict[str, torch.Tensor]:
    with open_experiment(path, path) as found:
        return found.teacher().state


def test_a_killed_run_has_the_teacher_of_its_newest_whole_state(copied) -> None:
    wanted = teacher_of(copied)
    (copied / "teacher.pth").unlink()
    assert same_tensors(teacher_of(copied), wanted)
    newest = copied / "pl_state" / "3epoch.rank0.pth"
    newest.write_bytes(newest.read_bytes()[:-100])
    before = load(copied / "pl_state" / "2epoch.rank0.pth")["teacher"]["model"]
    assert same_tensors(teacher_of(copied), before)
    assert not same_tensors(before, wanted)


def test_an_older_runs_teacher_is_no_teacher_of_the_next(copied) -> None:
    """A run that goes on beyond its teacher.pth has a newer one, or none yet."""
    old = load(copied / "teacher.pth")
    torch.save({key: value + 1 for key, value in old.items()}, copied / "teacher.pth")
    assert same_tensors(teacher_of(copied), old)
    begin_directory(copied, SimpleNamespace(resume=False))
    assert not (copied / "teacher.pth").exists()
    with pytest.raises(UserError, match="neither teacher.pth nor a whole state"):
        teacher_of(copied)


def change_state(run: Path, change: Callable[[dict], None]) -> None:
    for path in (run / "pl_state").glob("*epoch.rank0.pth"):
        state = load(path)
        change(state)
        torch.save(state, path)


def test_states_of_another_version_are_passed_over(copied) -> None:
    change_state(copied, lambda state: state.update(version=STATE_VERSION + 1))
    old = load(copied / "teacher.pth")
    torch.save({key: value + 1 for key, value in old.items()}, copied / "teacher.pth")
    assert not same_tensors(teacher_of(copied), old)


@pytest.mark.parametrize(
    "state, message",
    [
        ({"kind": "student"}, "its teacher is the student itself"),
        ({"kind": "ema", "model": None}, "has no teacher yet"),
    ],
)
def test_teachers_without_weights(copied, state, message) -> None:
    change_state(copied, lambda whole: whole.update(teacher=state))
    with open_experiment(copied, copied) as experiment:
        for which in ("teacher", "average"):
            with pytest.raises(UserError, match=rf"{message}.*take the student"):
                experiment.weights(which)


@pytest.mark.parametrize("member", ["../outside.yaml", "/outside.yaml"])
def test_archives_that_lead_out_are_refused(tmp_path: Path, member: str) -> None:
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo(member), io.BytesIO())
    with pytest.raises(UserError, match="members lead out of the archive"):
        with open_experiment(path, path):
            pass


def test_links_in_archives_lead_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "bad.tar"
    (tmp_path / "outside").mkdir()
    meta = b"files: {}\nyaml_files: {}\n"
    with tarfile.open(path, "w") as archive:
        described = tarfile.TarInfo("meta.yaml")
        described.size = len(meta)
        archive.addfile(described, io.BytesIO(meta))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside")
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("link/file"), io.BytesIO())
    with pytest.raises(UserError, match="cannot be unpacked"):
        with open_experiment(path, path):
            pass
    assert not list((tmp_path / "outside").iterdir())


def test_archives_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "bad.zip"
    with pytest.raises(UserError, match="does not exist"):
        with open_experiment(path, path):
            pass
    path.write_text("no archive")
    with pytest.raises(UserError, match="neither a zip nor a tar archive"):
        with open_experiment(path, path):
            pass
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("meta.yaml", "{files: {lm_file: a}, yaml_files: {}}")
        archive.writestr("a", "")
    with pytest.raises(UserError, match="names no asr_train_config"):
        with open_experiment(path, path):
            pass


def test_an_experiment_is_read_only(tmp_path: Path) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Experiment(tmp_path, {}).directory = tmp_path


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"normalize_conf": 3}, "normalize_conf must be a mapping, got '3'"),
        ({"bpemodel": 5}, "bpemodel must be a name, got '5'"),
        ({"best_model_criterion": "acc"}, "best_model_criterion must be a list"),
        ({"token_list": ["a", 1]}, "token_list must be a list of strings"),
        ({"token_list": 7}, "token_list must be a list, or a file"),
        ({"best_model_criterion": [1]}, "best_model_criterion: 1 is neither a name"),
        ({"best_model_criterion": [[1, "a"]]}, "is neither a name nor several"),
        ({3: 4}, "the key 3 must be a name"),
    ],
)
def test_values_of_other_types(tmp_path, changes, message) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"token_list": ["<blank>"], **changes}))
    with pytest.raises(UserError, match=message):
        read_config(path)


def test_a_packed_model_names_files_of_its_own_only(tmp_path, monkeypatch) -> None:
    secret, inside = tmp_path / "id_rsa", tmp_path / "packed"
    secret.write_text("private")
    inside.mkdir()
    (inside / "stats.npz").touch()
    (inside / "link.npz").symlink_to(secret)
    monkeypatch.chdir(tmp_path)
    config = {"normalize_conf": {"stats_file": "stats.npz"}}
    packed = Experiment(inside, config, model_file=inside / "m.pth")
    assert packed.find("stats.npz") == inside.resolve() / "stats.npz"
    for name in (str(secret), "./id_rsa", "../id_rsa", "link.npz", "a" * 300, "\0"):
        assert packed.find(name) is None
    # Of an experiment only what the keys of a model name.
    values = {"wandb": str(secret), "bpemodel": str(secret)}
    placed = Experiment(inside, values).place_files(values, lambda f: "got")
    assert placed == {"wandb": str(secret), "bpemodel": "got"}
