"""Progress that outlives a kill, and labels that are never mixed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from espnet_softpl.bin import export
from espnet_softpl.commands import label as commands_label
from espnet_softpl.commands.label_files import PROGRESS, Progress
from espnet_softpl.core.errors import UserError
from tests.support.labeling import (
    check_refusal,
    label_in_process,
)


def files_of(out: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(out.iterdir())}


def test_an_archive_labels_as_its_experiment(data, base_model, tmp_path) -> None:
    scp = data.path("unlabeled", "wav.scp")
    archive = tmp_path / "model.zip"
    export.main(["--asr_exp", str(base_model), "--out", str(archive)])
    for exp, out in ((base_model, "one"), (archive, "two")):
        label_in_process(exp, scp, tmp_path / out)
    one, two = (files_of(tmp_path / out) for out in ("one", "two"))
    assert str(archive) in two.pop("label.yaml") and one.pop("label.yaml")
    assert one == two


@pytest.mark.slow
@pytest.mark.parametrize("after, torn", [(0, True), (1, False), (3, True)])
def test_a_killed_run_goes_on(data, base_model, tmp_path, monkeypatch, after, torn):
    """With filters that draw; the files are those of a run that was not killed."""
    scp = data.path("unlabeled", "wav.scp")
    args = ["--batch_bins", 50000, "--pl_filter", "tokens", "dropout_agreement"]
    args += ["--pl_filter_conf", "dropout_agreement.samples=1"]
    exp = tmp_path / "exp"
    shutil.copytree(base_model, exp, symlinks=True)
    conf = yaml.safe_load((exp / "config.yaml").read_text())
    conf["encoder_conf"]["dropout_rate"] = 0.3
    (exp / "config.yaml").write_text(yaml.safe_dump(conf))
    label_in_process(exp, scp, tmp_path / "whole", *args)
    add = Progress.add

    def killed(self, number, records):
        if len(self.done) == after:
            raise KeyboardInterrupt
        add(self, number, records)

    out = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "add", killed)
        with pytest.raises(SystemExit, match="130"):
            label_in_process(exp, scp, out, *args)
    assert [path.name for path in out.iterdir()] == [PROGRESS]
    assert len((out / PROGRESS).read_text().splitlines()) == 1 + after
    if torn:
        with open(out / PROGRESS, "a") as file:
            file.write('[3, [{"id": "unlab')
    labeled = []
    call = commands_label.Labeler.__call__

    def counted(self, batch):
        labeled.append(1)
        return call(self, batch)

    monkeypatch.setattr(commands_label.Labeler, "__call__", counted)
    label_in_process(exp, scp, out, *args)
    assert files_of(out) == files_of(tmp_path / "whole")
    total = len(labeled) + after
    label_in_process(exp, scp, out, *args)  # Nothing is left to do.
    assert len(labeled) + after == total > after


def test_labels_of_other_settings_are_not_mixed(
    data, base_model, tmp_path, capsys
) -> None:
    scp, out = data.path("unlabeled", "wav.scp"), tmp_path / "labels"
    label_in_process(base_model, scp, out)
    before = files_of(out)
    best = (base_model / "valid.cer_ctc.ave.pth").resolve().name
    other_epoch = {"1epoch.pth": "2epoch.pth", "2epoch.pth": "1epoch.pth"}[best]
    for more, message in (
        (["--pl_filter"], r"pl_filter \['tokens'\], this run has \[\]"),
        (["--student", other_epoch], "sha256_of_model"),
        (["--batch_bins", 1000], "batch_bins 4000000, this run has 1000"),
    ):
        check_refusal(base_model, scp, out, more, message, capsys)
    other = data.path("dev", "wav.scp")
    check_refusal(base_model, other, out, [], "sha256_of_wav_scp", capsys)
    assert files_of(out) == before
    (out / "label.yaml").unlink()
    (out / PROGRESS).write_text(json.dumps({"seed": 1}) + "\n")
    check_refusal(base_model, scp, out, [], "name another --out", capsys)


@pytest.mark.parametrize("line", [b'[0, [{"id', b'{"s\xffed": 1}'])
def test_progress_that_is_damaged_is_refused(tmp_path, line) -> None:
    (tmp_path / PROGRESS).write_bytes(b'{"seed": 1}\n' + line + b"\n")
    with pytest.raises(UserError, match=r"\.progress is damaged: .*; remove it"):
        Progress(tmp_path, {"seed": 1})
