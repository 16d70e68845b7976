"""The command `train`: what it does before and after ESPnet is imported."""

from __future__ import annotations

import subprocess
import sys
import types

import pytest

from espnet_softpl.bin import train
from tests import ROOT

SCRIPT = """
import sys
from espnet_softpl.bin import train
try:
    train.main(["--help-all"])
except SystemExit as end:
    assert not end.code
from espnet2.samplers.build_batch_sampler import build_batch_sampler
try:
    build_batch_sampler(type=5, batch_size=1, batch_bins=1, shape_files=[])
except Exception as error:
    print(type(error).__name__)  # Typeguard's: it still looks.
"""


@pytest.mark.slow
def test_imports_are_silent_and_types_are_checked() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")  # Nothing of flash-attention.
    assert "nltk" not in done.stderr
    assert done.stdout.splitlines()[-1] == "TypeCheckError"


@pytest.mark.parametrize("words", (["--config", "no.yaml"], ["--config=no.yaml"]))
def test_a_missing_configuration_is_refused_first(words, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "espnet_softpl.training.task", None)
    with pytest.raises(SystemExit, match="2"):
        train.main(words)
    error = capsys.readouterr().err
    assert error.endswith(": error: argument --config: no.yaml does not exist\n")


@pytest.mark.parametrize(
    ("words", "text", "message"),
    [
        ([], "pl_criteron: x\n", "unknown key 'pl_criteron'. Did you mean 'pl_cr"),
        (
            ["--pl-techer=ema"],
            "a: 1\n",
            "unknown key 'pl_techer'. Did you mean 'pl_teacher'?",
        ),
        (
            ["--pl_zzzzzzzz", "1"],
            "a: 1\n",
            "unknown key 'pl_zzzzzzzz'. See softpl options.",
        ),
        ([], "unlabeled_oracle_txt: x\n", "Did you mean 'unlabeled_oracle_text'?"),
        ([], "a: [1\n", "is no YAML file of keys and values: "),
        ([], "- a\n", "is no YAML file of keys and values: it holds ['a']"),
        ([], "", "is no YAML file of keys and values: it is empty"),
    ],
)
def test_a_key_of_ours_that_is_misspelled_is_refused_first(
    words, text, message, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "espnet_softpl.training.task", None)
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(SystemExit, match="2"):
        train.main(["--config", str(tmp_path / "x.yaml"), *words])
    assert message in capsys.readouterr().err


def test_keys_that_are_right_or_shortened_reach_the_training(
    tmp_path, monkeypatch
) -> None:
    task = types.ModuleType("espnet_softpl.training.task")
    task.SoftPLTask = types.SimpleNamespace(main=lambda cmd: seen.append(cmd))
    monkeypatch.setitem(sys.modules, task.__name__, task)
    (tmp_path / "x.yaml").write_text("pl_criterion: x\nencoder: y\nplace: 1\n")
    seen: list[list[str]] = []
    words = ["--config", str(tmp_path / "x.yaml"), "--pl-crit", "x", "--ngpu", "0"]
    train.main(words)
    assert seen == [words]


def test_an_interrupt_before_the_training_is_a_line(monkeypatch, capsys) -> None:
    def interrupted(cmd: list[str]) -> None:
        raise KeyboardInterrupt

    task = types.ModuleType("espnet_softpl.training.task")
    task.SoftPLTask = types.SimpleNamespace(main=interrupted)
    monkeypatch.setitem(sys.modules, task.__name__, task)
    with pytest.raises(SystemExit, match="130"):
        train.main([])
    assert capsys.readouterr().err.endswith(": error: interrupted\n")


@pytest.mark.parametrize("words", (["--help"], ["--config", "no.yaml", "-h"]))
def test_help_is_a_page(words, capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        train.main(words)
    page = capsys.readouterr().out
    assert len(page.splitlines()) < 60
    assert "--help-all" in page and "softpl options" in page and "pl_criterion" in page
