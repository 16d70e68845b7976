"""Configurations on a base: how they are joined, and that each overlay is small."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from espnet2.tasks.asr import ASRTask

from espnet_softpl.training.task import SoftPLTask
from tests.support import warm_python
from tests.support.recipe import RECIPE, chain, read_config

FILES = sorted((RECIPE / "conf").rglob("train_*.yaml"))
OVERLAYS = [file for file in FILES if len(chain(file)) > 1]
LONGEST = {"train_pl_from_the_start.yaml": 25}  # It also has other updates.


def name_of(file: Path) -> str:
    return file.relative_to(RECIPE / "conf").as_posix()


def run_join(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [warm_python.executable(), "local/join_config.py", *map(str, arguments)]
    return subprocess.run(command, cwd=RECIPE, capture_output=True, text=True)


def write(path: Path, **conf: Any) -> Path:
    path.write_text(yaml.safe_dump(conf))
    return path


def test_mappings_are_joined_and_the_rest_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", x=dict(p=1, q=dict(r=2)), y=[1, 2], z=1)
    (tmp_path / "sub").mkdir()
    middle = dict(base_config="../a.yaml", x=dict(q=dict(s=3)), y=[])
    write(tmp_path / "sub" / "b.yaml", **middle)
    top = write(tmp_path / "sub" / "c.yaml", base_config="b.yaml", z=dict(t=4), w=None)
    wanted = dict(x=dict(p=1, q=dict(r=2, s=3)), y=[], z=dict(t=4), w=None)
    assert read_config(top) == wanted
    assert read_config(write(tmp_path / "d.yaml", z=0)) == dict(z=0)


def test_the_command_prints_or_writes_what_it_joined(tmp_path: Path) -> None:
    file = "conf/tuning/train_pl_soft_ce.yaml"
    printed = run_join(file).stdout
    first, _, rest = printed.partition("\n")
    assert first.endswith(" conf/train_warmup.yaml conf/train_control.yaml " + file)
    assert yaml.safe_load(rest) == read_config(RECIPE / file)
    assert run_join(file, "--out", tmp_path / "new" / "x.yaml").stdout == ""
    assert (tmp_path / "new" / "x.yaml").read_text() == printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base_config: nothing.yaml", "nothing.yaml"),
        ("base_config: x.yaml", "x.yaml is based on itself"),
        ("- a list", "x.yaml must be a YAML mapping"),
        ("a: [", "x.yaml: while parsing"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    result = run_join(tmp_path / "x.yaml")
    assert result.returncode == 1 and result.stdout == ""
    assert result.stderr.startswith("error: ") and message in result.stderr


@pytest.mark.parametrize("task", [ASRTask, SoftPLTask])
def test_espnet_refuses_a_file_that_was_not_joined(task, capsys) -> None:
    file = RECIPE / "conf/tuning/train_pl_soft_ce.yaml"
    with pytest.raises(SystemExit):
        task.get_parser().parse_args(["--config", str(file)])
    assert "base_config" in capsys.readouterr().err


def test_most_configurations_are_overlays() -> None:
    whole = {name_of(file) for file in FILES} - {name_of(file) for file in OVERLAYS}
    models = ("conformer_ctc", "e_branchformer", "slimipl/ls100")
    warmups = {f"models/{model}/train_warmup.yaml" for model in models}
    assert whole == {"train_warmup.yaml", "train_lm.yaml", *warmups}


def repeated(overlay: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """Return the keys that have the same value below."""
    keys = []
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            keys += [f"{key}.{inner}" for inner in repeated(value, base[key])]
        elif key in base and base[key] == value:
            keys.append(key)
    return keys


@pytest.mark.parametrize("file", OVERLAYS, ids=name_of)
def test_an_overlay_is_short_and_says_only_what_differs(file: Path) -> None:
    lines = [line.partition("#")[0].strip() for line in file.read_text().splitlines()]
    assert 2 <= len([line for line in lines if line]) <= LONGEST.get(file.name, 18)
    own = yaml.safe_load(file.read_text())
    base = read_config(file.parent / own.pop("base_config"))
    assert own and repeated(own, base) == []
