"""Model cards and uploads: what they say, and what stays at home."""

from __future__ import annotations

import argparse
import sys
import types
import zipfile
from pathlib import Path

import pytest
import yaml

from espnet_softpl.bin import export
from espnet_softpl.commands import model_card
from espnet_softpl.core.errors import UserError
from tests.support.report_experiments import write_data, write_experiment


def options(asr_exp: Path, which: str = "student") -> argparse.Namespace:
    references = [f"test={asr_exp.parent / 'data' / 'test'}"]
    given = {"asr_exp": str(asr_exp), "which": which, "ref_text": references}
    return argparse.Namespace(**given, license="cc-by-4.0", language="ar")


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Write a base model and a training that goes on from it."""
    data = tmp_path / "data"
    truths = write_data(data, ["utt1", "utt2"])
    write_experiment(tmp_path / "base", data, truths, 1, level=0.4)
    settings = {
        "pl_criterion": "soft_ctc",
        "pl_shaping_conf": {"lm": str(tmp_path / "secret" / "bigram.arpa")},
    }
    places = (tmp_path / "pl", data, truths, 1)
    write_experiment(*places, level=0.2, base=tmp_path / "base", **settings)
    return tmp_path / "pl"


def read_card(path: Path) -> tuple[dict, str]:
    """Return what stands between the lines of dashes, and the rest."""
    _, head, text = path.read_text("utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


def test_a_card_has_license_results_and_settings(experiment, tmp_path) -> None:
    model_card.write_card(options(experiment), tmp_path / "README.md")
    head, text = read_card(tmp_path / "README.md")
    assert (head["license"], head["language"]) == ("cc-by-4.0", "ar")
    assert "automatic-speech-recognition" in head["tags"]
    assert "| set | CER | WER |" in text and "±" in text
    assert "The base model's was " in text
    own = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert own["pl_criterion"] == "soft_ctc" and own["pl_shaping_conf"] == {
        "lm": "bigram.arpa"
    }


def test_a_card_names_no_path_of_the_machine(experiment, tmp_path) -> None:
    model_card.write_card(options(experiment), tmp_path / "README.md")
    assert str(tmp_path) not in (tmp_path / "README.md").read_text("utf-8")


def test_rates_of_the_student_are_not_the_teachers(experiment, tmp_path) -> None:
    model_card.write_card(options(experiment, "teacher"), tmp_path / "README.md")
    text = (tmp_path / "README.md").read_text("utf-8")
    assert "Of what the experiment decoded, not of this teacher." in text


def test_an_archive_has_no_results(tmp_path) -> None:
    (tmp_path / "model.zip").write_bytes(b"")
    with pytest.raises(UserError, match="has no results; name the experiment"):
        model_card.write_card(options(tmp_path / "model.zip"), tmp_path / "README.md")


class StandIn:
    """What is called of huggingface_hub."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def create_repo(self, repo_id: str, exist_ok: bool) -> str:
        assert exist_ok
        if repo_id == "nobody/model":
            raise PermissionError("403")
        return f"https://hub/{repo_id}"

    def upload_folder(self, repo_id: str, folder_path: str) -> None:
        for file in Path(folder_path).rglob("*"):
            if file.is_file():
                self.files[file.relative_to(folder_path).as_posix()] = file.read_bytes()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Put the stand-in in the place of huggingface_hub."""
    stand_in, module = StandIn(), types.ModuleType("huggingface_hub")
    module.HfApi = lambda: stand_in  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return stand_in


def test_what_is_uploaded_is_the_archive_unpacked(hub, tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("exp/model.pth", "weights")
    url = model_card.push(tmp_path / "model.zip", "me/model")
    assert url == "https://hub/me/model"
    assert hub.files == {"exp/model.pth": b"weights"}


def test_a_refusal_of_the_hub_is_told(hub, tmp_path) -> None:
    zipfile.ZipFile(tmp_path / "model.zip", "w").close()
    message = "--push-to-hub nobody/model: PermissionError: 403"
    with pytest.raises(UserError, match=message):
        model_card.push(tmp_path / "model.zip", "nobody/model")


def test_a_missing_hub_is_named(monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        model_card.push(tmp_path / "model.zip", "me/model")


def test_the_card_and_the_model_go_up_together(run, hub, tmp_path, capsys) -> None:
    """A whole export of a trained model."""
    command = ["--asr_exp", str(run), "--out", str(tmp_path / "out.zip"), "--card"]
    export.main([*command, "--push-to-hub", "me/model"])
    assert "https://hub/me/model" in capsys.readouterr().out
    assert {"README.md", "config.yaml", "student.pth"} <= {
        name.rpartition("/")[2] for name in hub.files
    }


def test_only_what_can_be_unpacked_is_uploaded(run, hub, tmp_path, capsys) -> None:
    command = ["--asr_exp", str(run), "--out", str(tmp_path / "directory")]
    with pytest.raises(SystemExit):
        export.main([*command, "--push-to-hub", "me/model"])
    assert "wants an --out that ends in .zip or .tar" in capsys.readouterr().err
    assert not (tmp_path / "directory").exists() and not hub.files
