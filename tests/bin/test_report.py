"""The command `report`: what it refuses, and the documented calls."""

from __future__ import annotations

from pathlib import Path

import pytest

from espnet_softpl.bin import report


def test_what_is_no_experiment_is_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "train.log").write_text("# python\n")
    good, out = str(tmp_path / "good"), ["--out", str(tmp_path / "out")]
    (tmp_path / "text").write_text("a A\n")
    twice = 2 * ["--ref_text", f"dev={tmp_path / 'text'}"]
    bad = {
        (str(tmp_path / "gone"),): "gone is no directory",
        (str(tmp_path / "empty"),): "is no experiment: it has none of config.yaml",
        (good, good): "is named twice",
        (good, "--ref_text", "dev"): "--ref_text must be SET=FILE, got 'dev'",
        (good, "--ref_text", "dev=gone"): "--ref_text: gone does not exist",
        (good, "--out", str(tmp_path / "file")): "file is no directory",
        (good, *twice): "--ref_text: dev is there twice",
        (): "the following arguments are required: EXP",
    }
    for words, message in bad.items():
        with pytest.raises(SystemExit) as ended:
            report.main([*out, *words])
        assert ended.value.code == 2, words
        assert message in capsys.readouterr().err, words
    assert not (tmp_path / "out").exists()


def test_a_missing_library_is_named(monkeypatch, capsys) -> None:
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        report.main(["."])
    assert ended.value.code == 2
    assert "plotly is not installed: pip install plotly" in capsys.readouterr().err
