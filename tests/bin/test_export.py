"""The command `export`: what it refuses, and its page."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import soundfile
import yaml

from espnet_softpl.bin import export
from tests import ROOT
from tests.support.exported import ZOO


def check_refusal(cmd: list[object], message: str, capsys) -> None:
    """Check that a command ends with status 2 and a message, and writes nothing."""
    out = Path(str(cmd[cmd.index("--out") + 1]))
    before = out.exists()
    with pytest.raises(SystemExit) as end:
        export.main([str(word) for word in cmd])
    assert end.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(message, error), error
    assert out.exists() == before
    assert not list(out.parent.glob(".export.*"))


def damage_config(run: Path, **changes: object) -> None:
    path = run / "config.yaml"
    conf = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**conf, **changes}))


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda run: (run / "config.yaml").unlink(), "config.yaml does not exist"),
        (
            lambda run: (run / "config.yaml").write_text("a: ["),
            "config.yaml is no YAML file",
        ),
        (
            lambda run: (run / "config.yaml").write_text("lr: 1"),
            "holds no token_list",
        ),
        (
            lambda run: damage_config(run, normalize_conf={"stats_file": "gone.npz"}),
            r"normalize_conf.stats_file is 'gone.npz', which is no file",
        ),
        (
            lambda run: damage_config(run, token_type="bpe", bpemodel="a/b.model"),
            "bpemodel is 'a/b.model', which is no file",
        ),
        (
            lambda run: damage_config(run, encoder="unheard_of"),
            "stock ESPnet cannot build this model",
        ),
        (
            lambda run: damage_config(run, model_conf={"ctc_weight": 1, "x": 1}),
            "stock ESPnet cannot build this model: TypeError",
        ),
        (
            lambda run: damage_config(run, decoder="rnn", model_conf={}),
            "do not fit the model: .* missing",
        ),
        (
            lambda run: damage_config(run, encoder="transformer", encoder_conf={}),
            "stock ESPnet cannot build this model: RuntimeError",
        ),
        (
            lambda run: (run / "valid.cer_ctc.ave.pth").write_bytes(b"0"),
            "ave.pth cannot be read, it is cut off",
        ),
    ],
)
def test_experiments_that_cannot_be_exported(
    copied, damage, message, tmp_path, capsys
) -> None:
    (copied / "valid.cer_ctc.ave.pth").unlink()
    shutil.copy(copied / "latest.pth", copied / "valid.cer_ctc.ave.pth")
    damage(copied)
    out = tmp_path / "out.zip"
    check_refusal(["--asr_exp", copied, "--out", out], message, capsys)


@pytest.mark.parametrize(
    "more, message",
    [
        (["--which", "assistant"], "invalid choice: 'assistant'"),
        (["--weight", "1.5"], r"1.5 is not in \[0, 1\]"),
        (
            ["--student", "9epoch.pth"],
            "9epoch.pth is not in .*; models of .*: 1epoch.pth",
        ),
        (["--student", "pl_state/3epoch.rank0.pth"], "is no model of ESPnet"),
        (["--student", "checkpoint.pth"], "cannot be read, it is cut off"),
        (["--option", "gone.md"], "--option: gone.md does not exist"),
    ],
)
def test_options_that_make_no_sense(run, more, message, tmp_path, capsys) -> None:
    out = tmp_path / "out.zip"
    check_refusal(["--asr_exp", run, "--out", out, *more], message, capsys)


PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")


BLOCK = re.compile(r"(<!-- needs a network -->\n)?```(\w+)\n(.*?)```\n", re.DOTALL)


@pytest.mark.slow
def test_every_block_of_the_page_runs(run, data, tmp_path, monkeypatch) -> None:
    """In order, in this process, in a directory as a recipe has it."""
    shutil.copytree(run, tmp_path / "exp" / "pl", symlinks=True)
    for part, ours in (("unlabeled", "unlabeled"), ("test", "dev")):
        (tmp_path / "dump" / part).mkdir(parents=True)
        shutil.copy(data.path(ours, "wav.scp"), tmp_path / "dump" / part)
    shutil.copy(data.path("dev", "dev-000.wav"), tmp_path / "speech.wav")
    zoo = tmp_path / "lib" / "espnet_model_zoo"
    zoo.mkdir(parents=True)
    (zoo / "__init__.py").write_text("")
    (zoo / "downloader.py").write_text(ZOO)
    monkeypatch.syspath_prepend(str(zoo.parent))
    monkeypatch.chdir(tmp_path)
    found = BLOCK.findall(PAGE)
    assert len(found) == PAGE.count("```") // 2
    languages, texts = [], []
    for network, language, text in found:
        languages.append(("network " if network else "") + language)
        if network:
            continue
        if language == "python":
            names: dict[str, object] = {}
            exec(compile(text, "docs/export.md", "exec"), names)
            model, speech = names["model"], soundfile.read("speech.wav")[0]
            texts.append(model(speech)[0][0])
            continue
        python, m, module, *words = shlex.split(text.replace("\\\n", " "))
        assert (python, m) == ("python", "-m")
        importlib.import_module(module).main(words)
    assert texts[0] == texts[1]
    assert sorted(set(languages)) == ["network sh", "python", "sh"]
    made = ("exp/decode/1best_recog/text", "data/pseudo/text")
    assert all((tmp_path / name).exists() for name in made)
    for name in ("espnet_model_zoo.downloader", "espnet_model_zoo"):
        del sys.modules[name]
