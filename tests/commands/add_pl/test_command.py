"""From a stock experiment to a running pseudo-labeling, by the printed command."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import kaldiio
import numpy as np
import pytest
import soundfile
import torch
import yaml
from espnet2.tasks.asr import ASRTask

from espnet_softpl.bin import add_pl, export
from espnet_softpl.core.files import load_weights
from espnet_softpl.training.options import prefer_command_line
from espnet_softpl.training.task import SoftPLTask
from tests import ROOT, python_path
from tests.support import warm_python
from tests.support.add_pl_recipe import (
    DATA,
    NOISE,
    SILENT,
    TINY,
    call,
    changed_base,
    from_archive,
    options,
    pl_plain,
    recognize,
    refusal,
    run_printed,
    write_audio,
)
from tests.support.espnet_runs import HYBRID, config, train


def test_the_printed_command_trains_from_the_base_model(here, tmp_path, capsys) -> None:
    values, command, output = call(capsys, *options(tmp_path))
    assert "--resume true" in output and f"'{tmp_path}/asr pl'" in output
    assert values["init_param"] == ["exp/asr_base/valid.cer_ctc.ave.pth"]
    assert "its best epoch has" in output and "Think twice" in output  # It is noise.
    assert "also give asr.sh --inference_asr_model valid.cer_ctc.ave.pth: its" in output
    assert values["optim_conf"]["lr"] == 0.0015
    assert "#   optim_conf.lr: 0.003 -> 0.0015:" in (
        tmp_path / "conf dir/train_pl.yaml"
    ).read_text(encoding="utf-8")
    exp = run_printed(command)
    assert isinstance(recognize(exp), str)
    assert isinstance(recognize(exp, "teacher.pth"), str)
    log = yaml.safe_load((exp / "config.yaml").read_text())
    assert log["pl_criterion"] == "hard_ctc" and log["num_iters_per_epoch"] == 4


@pytest.mark.slow
def test_the_printed_line_is_for_a_shell(here, tmp_path, capsys) -> None:
    """With spaces in its paths, and no file edited."""
    environment = {**os.environ, "PYTHONPATH": python_path()}
    python = Path(warm_python.executable())
    environment["PATH"] = f"{python.parent}:{environment['PATH']}"
    add_pl.main(options(tmp_path))
    line = " ".join([capsys.readouterr().out.splitlines()[-1], *SILENT])
    subprocess.run(["bash", "-c", line], env=environment, check=True)
    assert (tmp_path / "asr pl/valid.cer_ctc.ave.pth").exists()


def test_all_else_is_as_the_base_model_has_it(here, tmp_path, capsys) -> None:
    _, command, _ = call(capsys, *options(tmp_path))
    ours = vars(SoftPLTask.get_parser().parse_args(command))
    theirs = yaml.safe_load(Path("exp/asr_base/config.yaml").read_text())
    different = {
        key
        for key, value in theirs.items()
        if key in ours and pl_plain(ours[key]) != pl_plain(value)
    }
    expected = {"config", "output_dir", "optim_conf", "resume", "init_param", "ngpu"}
    assert different <= expected | {"required", "version", "dist_backend"}


def test_hybrids_keep_their_criterion_beside_ours(here, tmp_path, capsys) -> None:
    best = [["valid", "acc", "max"]]
    exp = train(
        ASRTask,
        config(
            **DATA.options(unlabeled=False),
            **TINY,
            **HYBRID,
            best_model_criterion=best,
            patience=3,
        ),
        tmp_path / "hybrid",
    )
    values, command, output = call(capsys, *options(tmp_path, exp=exp))
    assert values["init_param"] == [str(exp / "valid.acc.ave.pth")]
    assert values["best_model_criterion"] == [["valid", "cer_ctc", "min"], *best]
    assert "patience: 3 -> none" in output and "patience" not in values
    assert "--inference_asr_model" not in output
    assert isinstance(recognize(run_printed(command), "valid.acc.ave.pth"), str)


def test_add_pl_and_export_take_the_same_file(here, tmp_path, capsys) -> None:
    """Whatever the experiment's own criteria and their order."""
    own = [["train", "loss", "min"], ["valid", "loss", "min"]]
    exp = changed_base(tmp_path, best_model_criterion=own)
    for name in ("train.loss.ave", "valid.loss.ave", "valid.loss.best"):
        shutil.copy(exp / "latest.pth", exp / f"{name}.pth")
    for wanted in ("valid.cer_ctc.ave", "valid.loss.ave", "valid.loss.best", "latest"):
        values, _, _ = call(capsys, *options(tmp_path, "--overwrite", exp=exp))
        export.main(["--asr_exp", str(exp), "--out", str(tmp_path / f"{wanted}.zip")])
        assert values["init_param"] == [str(exp / f"{wanted}.pth")]
        assert capsys.readouterr().out.startswith(f"student: {exp / wanted}.pth\n")
        (exp / f"{wanted}.pth").unlink()
        for best in exp.glob("valid.cer_ctc.*best.pth"):
            best.unlink()


def test_a_base_model_with_bpe_and_statistics(here, bpe_base, tmp_path, capsys) -> None:
    values, command, _ = call(capsys, *options(tmp_path, exp=bpe_base))
    assert values["bpemodel"] == "bpe/bpe.model" and values["token_type"] == "bpe"
    assert values["normalize_conf"]["stats_file"] == "exp/stats/train/feats_stats.npz"
    assert isinstance(recognize(run_printed(command)), str)


def test_a_configuration_for_asr_sh(here, tmp_path, capsys) -> None:
    """asr.sh names the data on the command line, too; they replace the file's."""
    values, command, _ = call(capsys, *options(tmp_path))
    for part in ("train", "valid"):
        for spec in values[f"{part}_data_path_and_name_and_type"]:
            command += [f"--{part}_data_path_and_name_and_type", ",".join(spec)]
        for path in values[f"{part}_shape_file"]:
            command += [f"--{part}_shape_file", path]
    command += ["--fold_length", "80000", "--fold_length", "150", "--token_list"]
    command += ["data/tokens.txt"]
    args = SoftPLTask.get_parser().parse_args(command)
    assert len(args.train_data_path_and_name_and_type) == 4
    prefer_command_line(args)
    assert len(args.train_data_path_and_name_and_type) == 2
    assert args.fold_length == [80000, 150]
    once = pl_plain(vars(args))
    prefer_command_line(args)
    assert pl_plain(vars(args)) == once
    run_printed(command)


def test_a_file_alone_keeps_its_lists(here, tmp_path, capsys) -> None:
    values, command, _ = call(capsys, *options(tmp_path))
    args = SoftPLTask.get_parser().parse_args(command)
    prefer_command_line(args)
    assert args.train_shape_file == values["train_shape_file"]
    args = SoftPLTask.get_parser().parse_args(["--train_shape_file", "a"])
    prefer_command_line(args)
    assert args.train_shape_file == ["a"]


def test_features_from_kaldi_archives(here, tmp_path, capsys) -> None:
    directory = tmp_path / "feats"
    rng = np.random.default_rng(1)
    changes: dict[str, Any] = {}
    for part, ours in (("train", "labeled"), ("valid", "dev"), ("u", "unlabeled")):
        (directory / ours).mkdir(parents=True)
        ids = [line.split()[0] for line in open(f"data/{ours}/wav.scp")]
        feats = {uid: rng.standard_normal((60, 20), dtype=np.float32) for uid in ids}
        base = directory / ours / "feats"
        kaldiio.save_ark(f"{base}.ark", feats, scp=f"{base}.scp")
        shapes = "".join(f"{uid} 60,20\n" for uid in ids)
        (directory / ours / "feats_shape").write_text(shapes)
        changes[f"{part}_data_path_and_name_and_type"] = [
            [f"{base}.scp", "speech", "kaldi_ark"],
            [f"data/{ours}/text", "text", "text"],
        ]
        changes[f"{part}_shape_file"] = [f"{directory / ours}/feats_shape"]
    changes = {k: v for k, v in changes.items() if not k.startswith("u_")}
    exp = train(
        ASRTask,
        config(
            **changes,
            **TINY,
            token_list="data/tokens.txt",
            input_size=20,
            frontend=None,
        ),
        tmp_path / "seed",
    )
    wanted = options(tmp_path, "--unlabeled", directory / "unlabeled", exp=exp)
    values, command, _ = call(capsys, *wanted)
    assert values["unlabeled_shape_file"] == [f"{directory}/unlabeled/feats_shape"]
    run_printed(command)
    (directory / "unlabeled/feats_shape").unlink()
    wanted[wanted.index("--out") + 1] = str(tmp_path / "other.yaml")
    wanted += ["--exp_dir", str(tmp_path / "other")]
    assert "there must be a feats_shape beside it" in refusal(capsys, *wanted)


def test_audio_from_kaldi_archives(here, tmp_path, capsys) -> None:
    for part in ("labeled", "dev", "unlabeled"):
        directory = tmp_path / part
        directory.mkdir()
        if part != "unlabeled":
            shutil.copy(f"data/{part}/text", directory)
        base, lengths = directory / "wav", ""
        target = f"ark,scp:{base}.ark,{base}.scp"
        with kaldiio.WriteHelper(target, write_function="soundfile") as writer:
            for line in open(f"data/{part}/wav.scp"):
                uid, path = line.split()
                audio, rate = soundfile.read(path, dtype="int16")
                writer[uid] = audio, rate
                lengths += f"{uid} {len(audio)}\n"
        if part == "dev":  # Elsewhere they are read from the archives.
            (directory / "utt2num_samples").write_text(lengths)
    wanted = options(tmp_path, "--unlabeled", tmp_path / "unlabeled")
    anew = ("--labeled", tmp_path / "labeled", "--valid", tmp_path / "dev")
    values, command, output = call(capsys, *wanted, *anew)
    kinds = [spec[2] for spec in values["train_data_path_and_name_and_type"]]
    assert "20 utterances" in output and kinds == ["kaldi_ark", "text"]
    run_printed(command)


def test_long_audio_is_noted(here, tmp_path, capsys) -> None:
    long = write_audio(tmp_path / "long", long=np.tile(NOISE, 5))
    _, _, output = call(capsys, *options(tmp_path, "--unlabeled", long))
    assert "the longest 5.0 s" in output and "Cut unlabeled audio" in output
    assert "have 5.0 s in the median, labeled ones 0." in output
    assert "The level of" not in output  # -20 dB and -16 dB.


def test_another_level_is_noted(here, tmp_path, capsys) -> None:
    quiet = write_audio(tmp_path / "quiet", a=0.1 * NOISE, b=0.1 * NOISE, c=NOISE)
    _, _, output = call(capsys, *options(tmp_path, "--unlabeled", quiet))
    assert "unlabeled audio is -40 dB, of labeled audio -1" in output


def test_a_length_of_the_run_is_advised(here, tmp_path, capsys) -> None:
    """Of 20 utterances in fives; an epoch is one block, and one in four is labeled."""
    _, _, output = call(capsys, *options(tmp_path))
    assert "max_epoch of 5 or more (it is 1), for 3 passes" in output
    assert "one takes 5 mini-batches, an epoch has 3 of them" in output
    wanted = options(tmp_path, "--overwrite", "--max_epoch", "60")
    _, _, output = call(capsys, *wanted)
    assert "max_epoch of 5 or more (it is 60, enough)" in output
    assert "of 4 updates, the default: a fifteenth of the 60 of 60 epochs" in output
    _, _, output = call(capsys, *wanted, "--teacher", "frozen")
    assert "max_epoch of 5" in output and "half-life" not in output


@pytest.mark.parametrize(
    "words, message",
    [
        (["--unlabeled_steps", "0"], "argument --unlabeled_steps: 0 is not at least 1"),
        (["--lr", "nan"], "--lr must be a number above 0"),
        (["--ngpu", "-1"], "argument --ngpu: -1 is not at least 0"),
        (["--criterion", "hard_ct"], "Did you mean 'hard_ctc'?"),
        (
            ["--init_param", "nowhere.pth"],
            "nowhere.pth is not in exp/asr_base; models of exp/asr_base: ",
        ),
        (["--init_param", "exp/asr_base"], "exp/asr_base is a directory; models of "),
        (
            ["--init_param", "exp/asr_base/checkpoint.pth"],
            "ESPnet's state of a training",
        ),
        (["--init_param", "data/tokens.txt"], "cannot be read, it is cut off"),
        (["--out", "data/tokens.txt"], "exists; give another --out"),
        (["--exp_dir", "exp/asr_base"], "holds a training already"),
        (["--unlabeled", "nowhere"], "nowhere does not exist"),
        (["--moved", "gone", "new"], "--moved gone: exp/asr_base names no such path"),
        (["--out", "data/tokens.txt/pl.yaml"], "data/tokens.txt is no directory"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_options_that_cannot_be(here, tmp_path, capsys, words, message) -> None:
    assert message in refusal(capsys, *options(tmp_path, *words))
    assert not list(tmp_path.iterdir())


def test_an_experiment_without_a_model(here, tmp_path, capsys) -> None:
    message = refusal(capsys, *options(tmp_path, exp=tmp_path / "no exp"))
    assert "--asr_exp: " in message and "no exp is no directory" in message
    (tmp_path / "bare").mkdir()
    shutil.copy("exp/asr_base/config.yaml", tmp_path / "bare")
    message = refusal(capsys, *options(tmp_path, exp=tmp_path / "bare"))
    assert "holds no trained model" in message


@pytest.mark.parametrize("name", ["base.zip", "base.tgz"])
def test_a_packed_model(packed, here, tmp_path, capsys, name) -> None:
    wanted = from_archive(tmp_path, name)
    values, command, _ = call(capsys, *wanted)
    root = tmp_path / "unpacked"
    assert values["bpemodel"] == str(root / "bpe/bpe.model")
    stats = str(root / "exp/stats/train/feats_stats.npz")
    assert values["normalize_conf"]["stats_file"] == stats
    (parameters,) = values["init_param"]
    assert Path(parameters).is_relative_to(root)
    theirs = load_weights(Path("exp/asr_bpe/valid.cer_ctc.ave.pth"))
    ours = load_weights(Path(parameters))
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)
    run_printed(command)
    before = (root / "bpe/bpe.model").stat().st_mtime_ns
    (tmp_path / "asr pl/checkpoint.pth").unlink()
    call(capsys, *wanted, "--overwrite")
    assert (root / "bpe/bpe.model").stat().st_mtime_ns == before
    (root / "meta.yaml").write_text("other: true\n")
    assert "exists and is not what" in refusal(capsys, *wanted, "--overwrite")


def test_a_packed_model_has_no_data(
    packed, here, tmp_path, capsys, monkeypatch
) -> None:
    for name in ("base_valid.acc.ave.zip", "base_valid.cer_ctc.ave.zip"):
        shutil.copy("base.zip", tmp_path / name)
    for path in ("unlabeled", "dev"):
        shutil.copytree(f"data/{path}", tmp_path / "audio" / path)
    audio = (tmp_path / "audio/unlabeled/wav.scp").absolute()
    monkeypatch.chdir(tmp_path)
    for name in ("base_valid.acc.ave", "base_valid.cer_ctc.ave"):
        words = ["--archive", f"{name}.zip", "--unlabeled", audio, "--out", "pl.yaml"]
        message = refusal(capsys, *words)
        assert "A packed model comes without data: give --labeled DIR" in message
        # Each in a directory of its own: asr.sh packs a model by each criterion.
        assert Path("exp", name, "meta.yaml").is_file()
    assert not Path("pl.yaml").exists()


def test_a_model_of_the_zoo(packed, here, tmp_path, capsys, monkeypatch) -> None:
    """A stand-in for the downloader: this test has no network."""
    asked = []

    class Downloader:
        def __init__(self, cachedir=None):
            asked.append(cachedir)

        def download(self, name):
            if name == "a/unknown":
                raise OSError("no such repository")
            asked.append(name)
            # An archive, or what Hugging Face has: a directory with the same files.
            return "base.zip" if name == "an/archive" else str(tmp_path / "unpacked")

    module = types.ModuleType("espnet_model_zoo.downloader")
    module.ModelDownloader = Downloader
    monkeypatch.setitem(sys.modules, "espnet_model_zoo", types.ModuleType("zoo"))
    monkeypatch.setitem(sys.modules, "espnet_model_zoo.downloader", module)
    wanted = from_archive(tmp_path, "", "--cache_dir", "cache")[2:]
    first, _, _ = call(capsys, "--model_tag", "an/archive", *wanted)
    second, _, _ = call(capsys, "--model_tag", "user/model", *wanted, "--overwrite")
    assert first == second
    assert asked == [Path("cache"), "an/archive", Path("cache"), "user/model"]
    message = refusal(capsys, "--model_tag", "a/unknown", *wanted, "--overwrite")
    assert "cannot be downloaded: no such repository" in message
    monkeypatch.setitem(sys.modules, "espnet_model_zoo.downloader", None)
    message = refusal(capsys, "--model_tag", "user/model", *wanted, "--overwrite")
    assert "pip install --no-deps espnet_model_zoo && pip install" in message


PAGE = ROOT / "docs/add_pl.md"


def blocks(kind: str) -> list[str]:
    """Return the code blocks of the page, up to what is about recipes."""
    text = PAGE.read_text(encoding="utf-8").partition("\n## Your recipe\n")[0]
    return re.findall(rf"```{kind}\n(.*?)```", text, re.S)


def without_numbers(text: str) -> list[str]:
    return re.sub(r"[\d.]+( h\b| min\b)?", "0", text).splitlines()


def test_the_commands_of_the_page(packed, tmp_path, capsys, monkeypatch) -> None:
    """Run in a directory that has what the page's reader has."""
    for name in ("data", "bpe"):
        shutil.copytree(packed / name, tmp_path / name)
    (tmp_path / "exp").mkdir()
    conformer = tmp_path / "exp/asr_train_conformer"
    shutil.copytree(packed / "exp/asr_base", conformer, symlinks=True)
    shutil.copy(packed / "base.zip", tmp_path / "asr_train_conformer.zip")
    monkeypatch.chdir(tmp_path)
    Path("dump/raw").mkdir(parents=True)
    for theirs, ours in (("train", "labeled"), ("dev", "dev"), ("unlabeled",) * 2):
        Path("dump/raw", theirs).symlink_to(Path("data", ours).absolute())
    ran = 0
    for block in blocks("sh"):
        if "needs the network" in block:
            continue
        words = shlex.split(block.replace("\\\n", " "))
        assert words[:3] == ["python", "-m", "espnet_softpl.bin.add_pl"]
        if "--archive" in words:
            shutil.rmtree(conformer)
        _, command, output = call(capsys, *words[3:])
        run_printed(command)
        if not ran:
            (shown,) = blocks("text")
            # The page's reader has a better model than this one of noise.
            told = re.sub(r"\. Think twice.*", "", output).replace(
                "(it is 1)", "(it is 1, enough)"
            )
            assert without_numbers(told) == without_numbers(shown)
        ran += 1
    assert ran == 2
