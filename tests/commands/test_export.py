"""Leaving: student, teacher and average as stock models, without this package."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import sentencepiece
import soundfile
import torch
import yaml
from espnet2.main_funcs.pack_funcs import unpack
from espnet2.tasks.asr import ASRTask

from espnet_softpl.bin import export
from espnet_softpl.commands.experiment import Experiment, open_experiment
from espnet_softpl.commands.export import OF_THE_RUN, OURS, check_target, stock_config
from espnet_softpl.core import errors
from espnet_softpl.training import options
from espnet_softpl.training.resume.checkpoints import begin_directory
from espnet_softpl.training.resume.layout import STATE_VERSION
from espnet_softpl.training.task import SoftPLTask
from tests import ROOT
from tests.support.espnet_runs import (
    PL,
    Data,
    config,
    load,
    make_data,
    same_tensors,
    train,
)

KINDS = ("student", "teacher", "average")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


def write_stats(path: Path) -> Path:
    """Write statistics as `--collect_stats` does, of features around 1."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, count=10, sum=np.full(20, 10.0), sum_square=np.full(20, 30.0))
    return path


@pytest.fixture(scope="module")
def run(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished experiment with a teacher that is not its student."""
    root = tmp_path_factory.mktemp("run")
    stats = write_stats(root / "stats" / "feats_stats.npz")
    options = config(
        **data.options(),
        **PL,
        normalize="global_mvn",
        normalize_conf={"stats_file": str(stats)},
        optim_conf={"lr": 0.01},
        max_epoch=3,
    )
    return train(SoftPLTask, options, root / "exp" / "pl")


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(run, tmp_path / "pl", symlinks=True))


def exported(run: Path, out: Path, *more: str) -> dict[str, torch.Tensor]:
    """Export to an archive, and load the model from it."""
    export.main(["--asr_exp", str(run), "--out", str(out), *more])
    return load(Path(unpack(out, out.with_suffix(""))["asr_model_file"]))


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
    same = found.keys() - OF_THE_RUN.keys() - {"normalize_conf"}
    assert {k: found[k] for k in same} == {k: before[k] for k in same}


def test_options_are_told_apart() -> None:
    parser = argparse.ArgumentParser()
    options.add_pl_arguments(parser)
    assert all(key.startswith(OURS) for key in vars(parser.parse_args([])))
    stock = ASRTask.get_parser()
    known = vars(stock.parse_args(["--output_dir", "x", "--token_list", "x"]))
    assert not [key for key in known if key.startswith(OURS)]
    for key, value in OF_THE_RUN.items():
        assert key in known and stock.get_default(key) == value, key
    assert stock_config({"pl_guard": "warn", "seed": 1}) == {"seed": 1}


# What a stock process sees.

# espnet_model_zoo itself needs pandas and huggingface_hub to import. Of a local file
# its ModelDownloader does this:
ZOO = """
import hashlib
from pathlib import Path
from espnet2.main_funcs.pack_funcs import unpack

class ModelDownloader:
    def download_and_unpack(self, name):
        path = Path(name).absolute()
        cache = Path(__file__).parent / hashlib.md5(str(path).encode()).hexdigest()
        return unpack(path, cache)
"""

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
            env={**os.environ, "PYTHONPATH": str(tmp_path / "lib")},
            check=True,
            timeout=300,
        )
    finally:
        shutil.move(run.parents[1] / "gone", run.parents[1] / "stats")
    found = json.loads((elsewhere / "found.json").read_text())
    for name in names:
        text, log_probs = found[name]
        assert isinstance(text, str)
        assert torch.equal(torch.tensor(log_probs, dtype=torch.float32), ours[name])
    assert found[names[0]] != found[names[2]]  # Student and teacher differ.


# Recipes name files relative to where they are run.


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
    assert same_tensors(first, again)


# Which file is the student, which state is the teacher's.


def test_the_students_file(tmp_path: Path) -> None:
    criteria = [["valid", "acc", "max"], ["valid", "cer_ctc", "min"]]
    found = Experiment(tmp_path, {"best_model_criterion": criteria})
    with pytest.raises(errors.UserError, match="has no model yet .*latest.pth"):
        found.student_file()
    for name in (
        "student.pth",
        "latest.pth",
        "valid.cer_ctc.best.pth",
        "valid.cer_ctc.ave.pth",
        "valid.acc.ave.pth",
    ):
        (tmp_path / name).touch()
        assert found.student_file().name == name
    (tmp_path / "valid.acc.best.pth").touch()
    (tmp_path / "valid.acc.ave.pth").unlink()
    (tmp_path / "valid.acc.ave.pth").symlink_to("gone.pth")
    assert found.student_file().name == "valid.cer_ctc.ave.pth"
    assert found.student_file("latest.pth") == tmp_path / "latest.pth"
    assert found.student_file(str(tmp_path / "latest.pth")).name == "latest.pth"
    with pytest.raises(errors.UserError, match="5epoch.pth is not in .*latest.pth"):
        found.student_file("5epoch.pth")


def teacher_of(path: Path) -> dict[str, torch.Tensor]:
    with open_experiment(path) as found:
        return found.teacher().state


def test_a_killed_run_has_the_teacher_of_its_newest_whole_state(copied) -> None:
    wanted = teacher_of(copied)
    (copied / "teacher.pth").unlink()
    assert same_tensors(teacher_of(copied), wanted)
    newest = copied / "pl_state" / "3epoch.rank0.pth"
    newest.write_bytes(newest.read_bytes()[:-100])
    before = load(copied / "pl_state" / "2epoch.rank0.pth")["teacher"]["model"]
    assert same_tensors(teacher_of(copied), before)
    assert not same_tensors(before, wanted)


def test_an_older_runs_teacher_is_no_teacher_of_the_next(copied) -> None:
    """A run that goes on beyond its teacher.pth has a newer one, or none yet."""
    old = load(copied / "teacher.pth")
    torch.save({key: value + 1 for key, value in old.items()}, copied / "teacher.pth")
    assert same_tensors(teacher_of(copied), old)
    begin_directory(copied, SimpleNamespace(resume=False))
    assert not (copied / "teacher.pth").exists()
    with pytest.raises(errors.UserError, match="neither teacher.pth nor a whole state"):
        teacher_of(copied)


def change_state(run: Path, change: Callable[[dict], None]) -> None:
    for path in (run / "pl_state").glob("*epoch.rank0.pth"):
        state = load(path)
        change(state)
        torch.save(state, path)


def test_states_of_another_version_are_passed_over(copied) -> None:
    change_state(copied, lambda state: state.update(version=STATE_VERSION + 1))
    old = load(copied / "teacher.pth")
    torch.save({key: value + 1 for key, value in old.items()}, copied / "teacher.pth")
    assert not same_tensors(teacher_of(copied), old)


@pytest.mark.parametrize(
    "state, message",
    [
        ({"kind": "student"}, "its teacher is the student itself"),
        ({"kind": "ema", "model": None}, "its teacher is not born yet"),
    ],
)
def test_teachers_without_weights(copied, state, message, tmp_path, capsys) -> None:
    change_state(copied, lambda found: found.update(teacher=state))
    for which in ("teacher", "average"):
        check_refusal(
            ["--asr_exp", copied, "--which", which, "--out", tmp_path / "x.zip"],
            rf"{message}.*take the student",
            capsys,
        )


# Refusals


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
            "ave.pth cannot be read, it is torn",
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
            "9epoch.pth is not in .*models there: 1epoch.pth",
        ),
        (["--student", "pl_state/3epoch.rank0.pth"], "is not a model of ESPnet"),
        (["--student", "checkpoint.pth"], "cannot be read, it is torn or no state"),
        (["--option", "gone.md"], "--option gone.md does not exist"),
    ],
)
def test_options_that_make_no_sense(run, more, message, tmp_path, capsys) -> None:
    out = tmp_path / "out.zip"
    check_refusal(["--asr_exp", run, "--out", out, *more], message, capsys)


def test_targets_that_would_be_lost(run, tmp_path, capsys) -> None:
    full, file = tmp_path / "full", tmp_path / "file"
    full.mkdir()
    (full / "mine").touch()
    file.touch()
    for out, message in (
        (full, "is there already"),
        (file, "is there already"),
        (tmp_path / "model.rar", "want one of .zip"),
        (tmp_path / "model.pth", "want one of .zip"),
    ):
        check_refusal(["--asr_exp", run, "--out", out], message, capsys)
    (tmp_path / "dir.zip").mkdir()
    with pytest.raises(errors.UserError, match="is a directory"):
        check_target(tmp_path / "dir.zip")
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty")


@pytest.mark.parametrize("member", ["../outside.yaml", "/outside.yaml"])
def test_archives_that_lead_out_are_refused(tmp_path: Path, member: str) -> None:
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo(member), io.BytesIO())
    with pytest.raises(errors.UserError, match="members lead out of the archive"):
        with open_experiment(path):
            pass


def test_links_in_archives_lead_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "bad.tar"
    (tmp_path / "outside").mkdir()
    meta = b"files: {}\nyaml_files: {}\n"
    with tarfile.open(path, "w") as archive:
        described = tarfile.TarInfo("meta.yaml")
        described.size = len(meta)
        archive.addfile(described, io.BytesIO(meta))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside")
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("link/file"), io.BytesIO())
    with pytest.raises(errors.UserError, match="cannot be unpacked"):
        with open_experiment(path):
            pass
    assert not list((tmp_path / "outside").iterdir())


def test_archives_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "bad.zip"
    with pytest.raises(errors.UserError, match="does not exist"):
        with open_experiment(path):
            pass
    path.write_text("no archive")
    with pytest.raises(errors.UserError, match="neither a zip nor a tar archive"):
        with open_experiment(path):
            pass
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("meta.yaml", "{files: {lm_file: a}, yaml_files: {}}")
        archive.writestr("a", "")
    with pytest.raises(errors.UserError, match="names no asr_train_config"):
        with open_experiment(path):
            pass


def test_an_experiment_is_read_only(tmp_path: Path) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Experiment(tmp_path, {}).directory = tmp_path


# The page

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
    assert sorted(set(languages)) == ["network python", "network sh", "python", "sh"]
    made = ("exp/decode/1best_recog/text", "data/pseudo/text", "exp/hub/meta.yaml")
    assert all((tmp_path / name).exists() for name in made)
    for name in ("espnet_model_zoo.downloader", "espnet_model_zoo"):
        del sys.modules[name]
