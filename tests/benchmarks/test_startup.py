"""The benchmark of a large unlabeled set: its tables and its figures."""

import importlib
import json
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from espnet_softpl.data import tables
from tests import ROOT


@pytest.fixture(scope="module")
def bench() -> Iterator[types.ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("startup")


def test_paths_differ_and_lead_to_files(bench, tmp_path) -> None:
    bench.write_tables(tmp_path, 300)
    files = tables.read_scp(tmp_path / "wav.scp")
    assert len(set(files.values())) == 300
    assert all(Path(file).is_file() for file in files.values())
    assert list(tables.read_lengths(tmp_path / "shape")) == list(files)


@pytest.mark.slow
def test_figures_are_complete(bench, tmp_path, capsys) -> None:
    out = tmp_path / "startup.json"
    bench.main(["--utterances", "3000", "--json", str(out)])
    figures = json.loads(out.read_text())
    assert {"startup_s", "memory_mb", "machine.cpu", "command"} <= figures.keys()
    table = capsys.readouterr().out
    assert all(name in table for name in bench.PARTS)
