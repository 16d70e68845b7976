"""The page: what is on it, and that nothing in it comes from elsewhere."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from espnet_softpl.bin import report
from tests import ROOT
from tests.support.espnet_runs import load
from tests.support.report_pages import check_page, copy, run_report

EVIL = "<script>alert('x')</script>&amp;"


def test_three_experiments_that_are_not_decoded(runs, tmp_path, capsys) -> None:
    page = run_report(*runs.values(), out=tmp_path / "out")
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out/report.html")
    assert "Nothing has been decoded yet: what follows are" in page.words
    stats = load(runs["cached"] / "checkpoint.pth")["reporter"]["stats"]
    row = page.row("cached", "hard_ctc", "student", "slimipl")
    best = min(stats[epoch]["valid"]["cer_ctc"] for epoch in (1, 2))
    assert row[-3:] == [f"{100 * best:.1f}", "0", "all 2 epochs done"]
    assert page.row("stock", "supervised", "–", "–")[7:9] == ["2 of 2", "12"]
    ends = [100 * stats[epoch]["train"]["pl_cer"] for epoch in (1, 2)]
    label_row = page.row("cached", f"{ends[0]:.1f} → {ends[1]:.1f}")
    assert label_row[-1] == "0.0 → 0.0"
    assert "The same all the time: labels that are used (%): 100" in page.words
    assert "labels dropped by tokens (%): 0" in page.words
    used = [stats[epoch]["train"]["pl_uses"] for epoch in (1, 2)]
    assert page.row("cached", "slimipl", "2")[4] == f"{used[0]:.3g} → {used[1]:.3g}"
    assert page.row("cached", "1 : 1", "0", "1.0")
    assert "cached: the curves are of labels when they were used." in page.words
    assert page.row("pl_cache differs")[1:] == ['"slimipl"', '"none"']
    assert page.row("pl_cache_conf.size differs")[1:] == ["2", "–"]
    assert page.row("pl_criterion")[1:] == ['"hard_ctc"', '"hard_ctc"']
    assert "The same all the time: weight of the unlabeled loss: 1." in page.words
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["report.html"]
    assert "mutual information" in " ".join(page.charts("collapse"))
    (curve,) = [
        trace
        for trace in page.charts("validation")["validation loss"]
        if trace["name"] == "cached"
    ]
    wanted = [stats[epoch]["valid"]["loss"] for epoch in (1, 2)]
    assert curve["y"] == pytest.approx(wanted, rel=1e-4) and curve["x"] == [6, 12]


@pytest.mark.slow
def test_alarms_and_limits_are_shown(runs, tmp_path) -> None:
    page = run_report(runs["alarmed"], runs["cached"], out=tmp_path / "out")
    assert page.row("alarmed", "hard_ctc")[-2] == "1"
    assert "alarmed: 1 alarm." in page.words
    assert "Collapse guard: alarm 1 at step" in page.words
    assert "more labeled_steps" in page.words  # The advice of the report.
    state = torch.load(runs["alarmed"] / "pl_state/2epoch.rank0.pth", weights_only=True)
    track = state["guard"]["tracks"]["pl_frame_entropy"]
    row = page.row("pl_frame_entropy mean entropy of a frame (nats)")
    assert row[2].startswith(f"{track['reference']:.3g} → {track['level']:.3g}")
    assert "BEYOND ITS LIMIT, at most 1e-06" in row[2]
    # Of the other one the guard has not seen enough yet.
    assert row[3].startswith("– not known yet")


@pytest.mark.slow
def test_what_comes_from_files_is_escaped(runs, data, tmp_path) -> None:
    exp = copy(runs["cached"], tmp_path / "<b>exp&")
    key = EVIL.replace(" ", "")
    row = dict(step=3, made=3, utterance=key, label=EVIL, student=EVIL, weight=0.0)
    row["dropped_by"] = "<i>"
    samples = exp / "pl_samples" / "1epoch.rank0.jsonl"
    samples.write_text(json.dumps(row) + "\n")
    samples.with_name("7epoch.rank0.jsonl").write_text(json.dumps(row)[:40] + "\n")
    settings = yaml.safe_load((exp / "config.yaml").read_text())
    settings["pl_criterion"] = "<u>criterion"
    (exp / "config.yaml").write_text(yaml.safe_dump(settings))
    alarm = exp / "pl_collapse" / "step3"
    alarm.mkdir(parents=True)
    (alarm / "report.txt").write_text("<h1>alarm\n</pre><h1>\n")
    page = run_report(exp, runs["stock"], out=tmp_path / "out")
    for text in ("<b>exp&", "dropped: <i>", "<u>criterion", "<h1>alarm", EVIL):
        assert text in page.words, text
    assert not {"b", "i", "u"} & {name for name, _ in page.tags}
    assert "pl_samples/7epoch.rank0.jsonl cannot be read" in page.words


@pytest.mark.slow
def test_the_documented_commands(runs, tmp_path, monkeypatch, capsys) -> None:
    text = (ROOT / "docs" / "report.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    names = ("warmup", "hard_ctc", "soft_ce")
    for name, exp in zip(names, runs.values(), strict=True):
        copy(exp, tmp_path / "exp" / name)
    truth = tmp_path / "data" / "test_other" / "text"
    truth.parent.mkdir(parents=True)
    truth.write_text("a A B\n")
    monkeypatch.chdir(tmp_path)
    assert len(blocks) == 2
    for block in blocks:
        words = shlex.split(block)
        assert words[:2] == ["softpl", "report"]
        assert report.main(words[2:]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "report/report.html"
        check_page(Path("report/report.html"))
