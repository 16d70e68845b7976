"""Leaving: student, teacher and average as stock models, without this package."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import soundfile
import torch
import yaml
from espnet2.main_funcs.pack_funcs import unpack
from espnet2.tasks.asr import ASRTask

from espnet_softpl.bin import export
from espnet_softpl.commands.experiment import (
    OURS,
    is_of_run,
)
from espnet_softpl.commands.export import DATA, check_target, stock_config
from espnet_softpl.core.errors import UserError
from espnet_softpl.training import options
from espnet_softpl.training.task import SoftPLTask
from tests import ROOT
from tests.conftest import SITE
from tests.support import warm_python
from tests.support.disks import fill
from tests.support.espnet_runs import (
    config,
    load,
    same_tensors,
)
from tests.support.exported import ZOO, exported, write_stats

KINDS = ("student", "teacher", "average")


def floats(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if value.is_floating_point()}


def test_each_kind_has_its_weights(run, tmp_path) -> None:
    states = {k: exported(run, tmp_path / f"{k}.zip", "--which", k) for k in KINDS}
    student, teacher = load(run / "valid.cer_ctc.ave.pth"), load(run / "teacher.pth")
    assert same_tensors(states["student"], student)
    assert same_tensors(states["teacher"], teacher)
    assert not same_tensors(student, teacher)
    assert states["average"].keys() == student.keys()
    for key, mean in states["average"].items():
        if mean.is_floating_point():
            wanted = (student[key].double() + teacher[key].double()) / 2
            assert torch.equal(mean, wanted.float()), key
        else:
            assert torch.equal(mean, student[key]), key


@pytest.mark.parametrize("weight, file", [("0", "valid.cer_ctc.ave"), ("1", "teacher")])
def test_the_weight_is_the_teachers(run, tmp_path, weight, file) -> None:
    more = ("--which", "average", "--weight", weight)
    found = exported(run, tmp_path / "out.tgz", *more)
    assert same_tensors(floats(found), floats(load(run / f"{file}.pth")))
    between = exported(run, tmp_path / "other.zip", *more[:2], "--weight", "0.25")
    assert not same_tensors(floats(found), floats(between))


def strings(value: object) -> Iterator[str]:
    """Yield every string in a configuration."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from strings(part)
    elif isinstance(value, str):
        yield value


def test_the_archive_is_clean_and_complete(run, tmp_path) -> None:
    out = tmp_path / "model.zip"
    note = tmp_path / "RESULTS.md"
    note.write_text("results")
    exported(run, out, "--option", str(note))
    with zipfile.ZipFile(out) as archive:
        names = sorted(archive.namelist())
        found = yaml.safe_load(archive.read("config.yaml"))
        everything = archive.read("config.yaml") + archive.read("meta.yaml")
    wanted = ["RESULTS.md", "config.yaml", "feats_stats.npz", "meta.yaml"]
    assert names == sorted([*wanted, "student.pth"])
    assert found["normalize_conf"] == {"stats_file": "feats_stats.npz"}
    # No path of this machine, and no word of this package.
    assert not [s for s in strings(found) if s.startswith("/")]
    assert (
        b"softpl" not in everything and str(tmp_path.parent).encode() not in everything
    )
    # What is left is what a stock training writes.
    before = yaml.safe_load((run / "config.yaml").read_text())
    assert found.keys() == {key for key in before if not key.startswith(OURS)}
    changed = {key for key in found if is_of_run(key) or key in DATA}
    same = found.keys() - changed - {"normalize_conf"}
    assert {k: found[k] for k in same} == {k: before[k] for k in same}


def test_options_are_told_apart() -> None:
    parser = argparse.ArgumentParser()
    options.add_pl_arguments(parser)
    assert all(key.startswith(OURS) for key in vars(parser.parse_args([])))
    stock = ASRTask.get_parser()
    known = vars(stock.parse_args(["--output_dir", "x", "--token_list", "x"]))
    assert not [key for key in known if key.startswith(OURS)]
    assert set(DATA) <= known.keys()
    assert not [key for key in known if is_of_run(key) and key in DATA]
    theirs = dict(known, config="x", init_param=["y"], wandb_id="z", dist_rank=1)
    theirs |= {key: ["x"] for key in DATA} | {"pl_guard": "warn", "lr": 1}
    exported_config = stock_config(theirs)
    assert exported_config == {**known, "lr": 1, "output_dir": None}
    assert theirs["config"] == "x"


STOCK = """
import json, sys
sys.modules["espnet_softpl"] = None  # importing it fails
import soundfile, torch
from espnet2.bin.asr_inference import Speech2Text

audio = soundfile.read(sys.argv[1], dtype="float32")[0]
found = {}
for name in sys.argv[2:]:
    if name.endswith(".zip"):
        model = Speech2Text.from_pretrained(name, ctc_weight=1.0, beam_size=1)
    else:
        config, weights = name.split(":")
        model = Speech2Text(config, weights, ctc_weight=1.0, beam_size=1)
    speech = torch.tensor(audio).unsqueeze(0)
    with torch.no_grad():
        encoded, _ = model.asr_model.encode(speech, torch.tensor([speech.size(1)]))
        log_probs = model.asr_model.ctc.log_softmax(encoded)
    found[name] = [model(audio)[0][0], log_probs[0].double().tolist()]
assert not any(m.startswith("espnet_softpl.") for m in sys.modules)
json.dump(found, open("found.json", "w"))
"""


def our_log_probs(run: Path, state: dict, audio: np.ndarray) -> torch.Tensor:
    """Compute what this package's model says, (T, V)."""
    conf = yaml.safe_load((run / "config.yaml").read_text())
    model = SoftPLTask.build_student(argparse.Namespace(**conf)).eval()
    model.load_state_dict(state)
    speech = torch.tensor(audio).unsqueeze(0)
    with torch.no_grad():
        log_probs, _ = model.ctc_log_probs(speech, torch.tensor([speech.size(1)]))
    return log_probs[0]


@pytest.mark.slow
def test_a_stock_process_loads_all_of_them(run, data, tmp_path) -> None:
    """By from_pretrained and from a directory; with the statistics' home gone."""
    elsewhere, zoo = tmp_path / "elsewhere", tmp_path / "lib/espnet_model_zoo"
    elsewhere.mkdir()
    zoo.mkdir(parents=True)
    (zoo / "__init__.py").write_text("")
    (zoo / "downloader.py").write_text(ZOO)
    names, states = [], {}
    for kind in KINDS:
        out = [tmp_path / f"{kind}.zip", tmp_path / "dirs" / kind]
        export.main(["--asr_exp", str(run), "--which", kind, "--out", *map(str, out)])
        names += [str(out[0]), f"{out[1]}/config.yaml:{out[1]}/{kind}.pth"]
        states |= dict.fromkeys(names[-2:], load(out[1] / f"{kind}.pth"))
    file = Path(data.path("dev", "dev-000.wav"))
    audio = soundfile.read(file, dtype="float32")[0]
    ours = {name: our_log_probs(run, state, audio) for name, state in states.items()}
    shutil.move(run.parents[1] / "stats", run.parents[1] / "gone")
    try:
        subprocess.run(
            [sys.executable, "-c", STOCK, str(file), *names],
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": f"{tmp_path / 'lib'}:{SITE}"},
            check=True,
            timeout=300,
        )
    finally:
        shutil.move(run.parents[1] / "gone", run.parents[1] / "stats")
    found = json.loads((elsewhere / "found.json").read_text())
    for name in names:
        text, log_probs = found[name]
        assert isinstance(text, str)
        # Two processes may sum in another order.
        torch.testing.assert_close(
            torch.tensor(log_probs, dtype=torch.float32), ours[name], atol=1e-4, rtol=0
        )
    assert found[names[0]] != found[names[2]]  # Student and teacher differ.


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A BPE model with statistics, as a recipe's directory has it, not trained."""
    root = tmp_path / "recipe"
    exp = root / "exp" / "asr_bpe"
    exp.mkdir(parents=True)
    write_stats(root / "exp" / "asr_stats" / "train" / "feats_stats.npz")
    (root / "data").mkdir()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ABAB CACA", "CABB AC"] * 20),
        model_prefix=str(root / "data" / "bpe"),
        vocab_size=10,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(str(root / "data" / "bpe.model"))
    tokens = [pieces.id_to_piece(i) for i in range(3, 10)]
    conf = config(
        token_type="bpe",
        bpemodel="data/bpe.model",
        token_list=["<blank>", "<unk>", *tokens, "<sos/eos>"],
        normalize="global_mvn",
        normalize_conf={"stats_file": "exp/asr_stats/train/feats_stats.npz"},
    )
    stock = vars(ASRTask.get_parser().parse_args(["--output_dir", "x"]))
    conf = {**stock, **conf}
    (exp / "config.yaml").write_text(yaml.safe_dump(conf))
    monkeypatch.chdir(root)
    model = ASRTask.build_model(argparse.Namespace(**conf))
    torch.save(model.state_dict(), exp / "latest.pth")
    return root


def test_files_of_a_recipe_are_found_from_everywhere(
    recipe: Path, tmp_path: Path, monkeypatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    exported(recipe / "exp/asr_bpe", other / "model.tar.gz")
    export.main(["--asr_exp", str(recipe / "exp/asr_bpe"), "--out", "here"])
    shutil.rmtree(recipe / "data")
    shutil.rmtree(recipe / "exp/asr_stats")
    with tarfile.open(other / "model.tar.gz") as archive:
        names = set(archive.getnames())
    members = {"config.yaml", "bpe.model", "feats_stats.npz", "student.pth"}
    assert names == {"meta.yaml", *members}
    assert {path.name for path in (other / "here").iterdir()} == members
    monkeypatch.chdir(tmp_path)
    where = [unpack(other / "model.tar.gz", tmp_path / "unpacked")]
    where += [{"asr_train_config": other / "here/config.yaml"}]
    for files in where:
        model, args = ASRTask.build_model_from_file(files["asr_train_config"])
        assert model.normalize is not None and Path(args.bpemodel).is_file()


def test_an_archive_is_an_experiment_too(recipe: Path, tmp_path: Path) -> None:
    first = exported(recipe / "exp/asr_bpe", tmp_path / "first.zip")
    again = exported(tmp_path / "first.zip", tmp_path / "again.tar")
    third = exported(tmp_path / "again.tar", tmp_path / "third.tgz")
    assert same_tensors(first, again) and same_tensors(first, third)


def test_targets_that_would_be_lost(tmp_path) -> None:
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "mine").touch()
    file.touch()
    (tmp_path / "dir.zip").mkdir()
    for out, message in (
        (full, "is there already"),
        (file, "is there already"),
        (tmp_path / "model.rar", "want one of .zip"),
        (tmp_path / "model.pth", "want one of .zip"),
        (tmp_path / "dir.zip", "is a directory"),
    ):
        with pytest.raises(UserError, match=message):
            check_target(out)
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty")


def files_of(disk: Path) -> set[Path]:
    return {path for path in disk.rglob("*") if path.name != "filler"}


@pytest.mark.slow
@pytest.mark.parametrize("source", ["experiment", "archive"])
def test_a_full_disk_ends_it_and_nothing_stays(
    run, tmp_path, small_disk, capsys, source
) -> None:
    if source == "archive":
        exported(run, tmp_path / "model.zip")
        run = tmp_path / "model.zip"
    statuses = set()
    for free in range(0, 600_000, 50_000):
        fill(small_disk, free)
        before, status = files_of(small_disk), 0
        out = [str(small_disk / name) for name in ("model", "model.tgz")]
        try:
            export.main(["--asr_exp", str(run), "--out", *out])
        except SystemExit as end:
            status = end.code
            error = capsys.readouterr().err
            assert "No space left" in error or "disk may be full" in error
            assert str(small_disk) in error and len(error.splitlines()) == 1
            # A directory that was whole before the archive was begun.
            left = files_of(small_disk) - before
            assert not left or left == {Path(out[0]), *Path(out[0]).iterdir()}
        statuses.add(status)
        shutil.rmtree(out[0], ignore_errors=True)
        Path(out[1]).unlink(missing_ok=True)
    assert statuses == {0, 4}


def test_what_a_killed_command_has_unpacked_goes_at_the_next(run, tmp_path) -> None:
    exported(run, tmp_path / "model.zip")
    words = ["--asr_exp", str(tmp_path / "model.zip"), "--out", str(tmp_path / "new")]
    code = (
        "import os, signal; from espnet_softpl.bin import export; "
        "from espnet_softpl.commands.experiment import Experiment; "
        "Experiment.weights = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
        f"export.main({words!r})"
    )
    before = set(tmp_path.iterdir())
    command = [warm_python.executable(), "-"]
    ended = subprocess.run(command, input=code, text=True, cwd=ROOT)
    assert ended.returncode == -signal.SIGKILL
    (left,) = set(tmp_path.iterdir()) - before
    assert left.name == ".unpack.for.new"
    export.main(words)
    assert set(tmp_path.iterdir()) - before == {tmp_path / "new"}
