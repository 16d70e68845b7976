"""docs/hands_on.ipynb: it runs, and shows what its text says."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests import ROOT

nbformat = pytest.importorskip("nbformat", reason="extra test")
nbclient = pytest.importorskip("nbclient", reason="extra test")

FILE = ROOT / "docs" / "hands_on.ipynb"


def test_it_is_kept_without_outputs_and_its_links_lead_somewhere() -> None:
    notebook = nbformat.read(FILE, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs") and not cell.get("execution_count")
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\(([^)]+)\)", cell.source):
                assert (FILE.parent / target).is_file(), target


@pytest.mark.slow
def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("espeakng_loader", reason="extra mini")
    scripts = str(Path(sys.executable).parent)
    monkeypatch.setenv("PATH", os.pathsep.join([scripts, os.environ["PATH"]]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(FILE, as_version=4)
    place = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=place).execute()
    outputs = [item for cell in notebook.cells for item in cell.get("outputs", [])]
    shown = "".join(item.get("text", "") for item in outputs)
    assert len(re.findall(r"^[01]\.\d\d  [A-Z ]+$", shown, re.M)) == 4
    norms = re.findall(r"^(\w+) +loss .* gradient ([\d.]+)$", shown, re.M)
    of = {name: float(norm) for name, norm in norms}
    assert of["soft_ce"] < 0.005 < of["soft_ctc"] and of["hard_ctc"] > 0.1
    assert "Pseudo-labeling is on" in shown and "Epoch 2 of 2" in shown
    assert re.search(r"^CER [\d.]+ ±.* before, [\d.]+ ±.* after$", shown, re.M)
    assert "rror" not in shown
    assert (tmp_path / "work/report/report.html").is_file()
