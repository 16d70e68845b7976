"""The command `demo`: from nothing to a report, and what it refuses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from espnet_softpl.bin import demo


def test_the_shipped_model_is_small_and_knows_no_path() -> None:
    files = list(demo.MODEL.iterdir())
    assert {file.name for file in files} == {"config.yaml", "valid.cer_ctc.ave.pth"}
    assert sum(file.stat().st_size for file in files) <= 3e6
    state = torch.load(demo.MODEL / "valid.cer_ctc.ave.pth", weights_only=True)
    assert all(value.isfinite().all() for value in state.values())
    config = yaml.safe_load((demo.MODEL / "config.yaml").read_text("utf-8"))
    assert not [v for v in config.values() if isinstance(v, str) and "/" in v]


def test_data_are_kaldi_directories_of_all_voices(tmp_path: Path) -> None:
    for name in ("train-labeled", "train-unlabeled", "dev"):
        for speaker in "12345":
            folder = tmp_path / "corpus" / name / speaker / "1"
            folder.mkdir(parents=True)
            lines = [f"{speaker}-1-{i} WORD {'AB'[i % 2]}" for i in range(10)]
            (folder / f"{speaker}-1.trans.txt").write_text("\n".join(lines))
    demo.write_data(tmp_path / "corpus", tmp_path / "data")
    whole = (tmp_path / "data/dev/text").read_text().splitlines()
    assert whole[11] == "2-1-1 WORD B" and len(whole) == 50
    audio = (tmp_path / "data/dev/wav.scp").read_text().splitlines()
    assert audio[11] == f"2-1-1 {tmp_path}/corpus/dev/2/1/2-1-1.flac"
    some = (tmp_path / "data/dev-some/text").read_text().splitlines()
    assert some == whole[:40:2]


def test_labels_are_shown_and_scored(tmp_path: Path, capsys) -> None:
    texts = {"truth": "GO ON", "before": "GO IN", "after": "GO ON"}
    for name, words in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "text").write_text(f"u1 {words}\nu2 NO\n")
    before, after = demo.show_labels(*(tmp_path / name / "text" for name in texts))
    assert before.startswith("14.3 ") and after == "0.0 ±0.0"
    shown = capsys.readouterr().out.splitlines()
    assert shown[:3] == ["  spoken  go on", "  before  go in", "  after   go on"]


def test_a_directory_in_use_is_refused(tmp_path: Path, capsys) -> None:
    (tmp_path / "mine").write_text("")
    with pytest.raises(SystemExit) as refusal:
        demo.main(["--out", str(tmp_path)])
    assert refusal.value.code == 2
    assert "is not an empty directory" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(demo, "NEEDED", {"no_such_package": "mini"})
    with pytest.raises(SystemExit):
        demo.main(["--out", str(tmp_path / "new")])
    wanted = "no_such_package is missing: pip install 'espnet_softpl[mini]'"
    assert wanted in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_step_that_fails_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(demo.COMMANDS, "report", lambda words: 3)
    with pytest.raises(demo.UserError, match="softpl report ended with status 3"):
        demo.run_command(demo.REPORT, tmp_path)


@pytest.mark.slow
def test_from_nothing_to_a_report(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader")
    command = [sys.executable, "-m", "espnet_softpl.cli", "demo", "--out", "d d"]
    run = subprocess.run(
        [*command, "--no-open"], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    names = "make-mini-corpus label add train label report".split()
    assert re.findall(r"^\$ softpl (\S+)", run.stdout, re.M) == names
    assert re.search(
        r"^Epoch 2 of 2: dev CER [\d.]+%; CER of the labels", run.stdout, re.M
    )
    rates = re.search(r"CER of 20 .*: ([\d.]+) ±.* before, ([\d.]+) ±", run.stdout)
    assert rates and all(5 < float(rate) < 40 for rate in rates.groups())
    assert "FutureWarning" not in run.stdout + run.stderr
    page = tmp_path / "d d" / "report" / "report.html"
    assert "soft_ctc" in page.read_text("utf-8")
