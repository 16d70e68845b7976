"""The command `train`: what it does before and after ESPnet is imported."""

from __future__ import annotations

import subprocess
import sys

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


@pytest.mark.parametrize("words", (["--help"], ["--config", "no.yaml", "-h"]))
def test_help_is_a_page(words, capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        train.main(words)
    page = capsys.readouterr().out
    assert len(page.splitlines()) < 60
    assert "--help-all" in page and "softpl options" in page and "pl_criterion" in page
