"""docs/add_pl.md, "Your recipe": ESPnet's recipe with `espnet_softpl` as python.

The page's diff is applied to a `run.sh`, its YAML to a configuration; the recipe then
runs on a tiny corpus, with tests/support/stock_asr.sh in the place of ESPnet's asr.sh.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from espnet2.tasks.asr import ASRTask

from espnet_softpl.__main__ import command
from espnet_softpl.training.task import SoftPLTask
from tests import ROOT, python_path
from tests.end_to_end.test_launch import TRAIN, Site, really
from tests.end_to_end.test_launch import block as launch_block
from tests.support import warm_python
from tests.support.espnet_runs import PL, config, load, make_data, same_tensors
from tests.training.test_help import COMMANDS, parser_of

WHOLE = (ROOT / "docs" / "add_pl.md").read_text(encoding="utf-8")
PAGE = WHOLE.partition("\n## Your recipe\n")[2]
OURS = "python -m espnet_softpl"
# Each block of commands on the page, by a part that no other has, and its test; the
# first is of another command, and the second needs scripts of ESPnet and Kaldi.
BLOCKS = {
    "add_pl": "espnet_softpl.bin.add_pl",
    "dump": "format_wav_scp.sh",
    "run": "./run.sh --stage 11",
    "ssh": "--host node1,node2",
}
RUN_SH = """#!/usr/bin/env bash
set -euo pipefail
./asr.sh \\
    --asr_config conf/train_asr.yaml \\
    --lang en \\
    --train_set train --valid_set dev --test_sets "test" \\
    --inference_args "--ctc_weight 1.0 --beam_size 1" \\
    --inference_asr_model valid.cer_ctc.ave.pth \\
    "$@"
"""
SEED = "exp/asr_train_asr_raw_en_char"
MODEL = f"{SEED}/valid.cer_ctc.ave.pth"
TAUGHT = "exp/asr_train_asr_pl_raw_en_char"
STATS = "exp/asr_stats_raw_en_char"
DECODED = "inference_asr_model_valid.cer_ctc.ave/test"


def fenced(language: str) -> list[str]:
    """Return the page's blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


def block(name: str) -> str:
    """Return a block of commands by its name in `BLOCKS`."""
    (found,) = (text for text in fenced("sh") if BLOCKS[name] in text)
    return found


def patched(text: str, diff: str) -> str:
    """Apply a diff of one hunk, without line numbers."""
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    old = "\n".join(line[1:] for line in lines if line[0] in " -")
    new = "\n".join(line[1:] for line in lines if line[0] in " +")
    assert text.count(old) == 1
    return text.replace(old, new)


def test_every_block_is_known() -> None:
    assert sorted(map(block, BLOCKS)) == sorted(fenced("sh"))
    assert PAGE.count("```") == 2 * sum(len(fenced(x)) for x in ("sh", "yaml", "diff"))


def documented() -> dict[str, set[str]]:
    """Find the options that the page gives to commands of ours, by the command."""
    found: dict[str, set[str]] = {}
    for text in fenced("sh"):
        for line in text.replace("\\\n", " ").splitlines():
            if match := re.search(r".* -m (espnet\w*\.bin\.\w+) (.*)", line):
                module = match[1].replace(
                    "espnet2.bin.asr_train", "espnet_softpl.bin.train"
                )
                options = re.findall(r"(?<!\S)--\w\S*", match[2])
                found.setdefault(module.rpartition(".")[2], set()).update(options)
    return found


@pytest.mark.parametrize("name", sorted({*documented()} & {*COMMANDS}))
def test_our_commands_take_the_documented_options(name: str) -> None:
    options = documented()[name]
    assert options and options <= {*parser_of(name)._option_string_actions}


def calls(root: Path, script: str) -> list[list[str]]:
    """Run a script with stand-ins; return what our command was started with."""
    root.mkdir()
    site = Site(root)
    status, output = site.run(script)
    assert status == 0, output
    found = [call["args"] for call in site.trainings()]
    mask = re.compile(rf"{root}(/exp/pl/.dist_init_)[-\w]+")
    return sorted([mask.sub(r"\1", word) for word in words] for words in found)


def redirected(plain: str) -> str:
    """Write a command of docs/distributed.md as a stock recipe would start it."""
    ours = plain.replace(TRAIN, f"{OURS} -m espnet2.bin.asr_train")
    ours = ours.replace("python -m espnet2.bin.launch", f"{OURS} -m espnet2.bin.launch")
    assert ours.count(OURS) == 2
    return ours


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run.pl", "slurm.pl", "ssh"])
def test_launch_starts_the_same_processes(name: str, tmp_path: Path) -> None:
    plain = launch_block(name)
    ours = redirected(plain)
    expected = calls(tmp_path / "plain", plain)
    started = calls(tmp_path / "ours", ours)
    assert len(started) == {"run.pl": 1, "slurm.pl": 2, "ssh": 8}[name]
    assert [command(words, words[2:]) for words in started] == expected
    assert all(words[:2] == ["-m", "espnet_softpl"] for words in started)


@pytest.mark.slow
def test_the_documented_launch_by_ssh(tmp_path: Path) -> None:
    started = calls(tmp_path / "documented", block("ssh"))
    expected = calls(tmp_path / "plain", launch_block("ssh"))
    assert [command(words, words[2:]) for words in started] == expected


@pytest.mark.slow
def test_two_processes_really_meet_through_slurm(tmp_path: Path) -> None:
    """Each node's task spawns its processes, and all of them build our model."""
    site = Site(tmp_path)
    data = make_data(tmp_path / "data")
    options = dict(config(**PL), **data.options(), dry_run=True, log_level="INFO")
    site.configure(options)
    site.set(run=True)
    status, output = site.run(redirected(really("slurm.pl")), timeout=300)
    assert status == 0, output[-3000:]
    assert [call["status"] for call in site.trainings()] == [0, 0]
    assert re.search(r"^\[\S+:0/2\] .*Saving the configuration", output, re.M)
    written = yaml.safe_load((tmp_path / "exp/pl/config.yaml").read_text())
    assert written["dist_backend"] == "gloo" and written["pl_criterion"] == "hard_ctc"


class Recipe:
    """A recipe in a directory of its own, as ESPnet's are.

    Args:
        root: The directory, empty.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        data = make_data(root / "downloads")
        (root / "dump" / "raw").mkdir(parents=True)
        parts = dict(train="labeled", dev="dev", test="dev", unlabeled="unlabeled")
        for name, part in parts.items():
            shutil.copytree(data.root / part, root / "dump" / "raw" / name)
        tokens = root / "data" / "en_token_list" / "char" / "tokens.txt"
        tokens.parent.mkdir(parents=True)
        shutil.copy(data.root / "tokens.txt", tokens)
        for name in ("utils", "conf"):
            (root / name).mkdir()
        job = ROOT / "egs2" / "librispeech_softpl" / "scripts" / "run_job.sh"
        shutil.copy(job, root / "utils" / "run.pl")
        shutil.copy(ROOT / "tests" / "support" / "stock_asr.sh", root / "asr.sh")
        (root / "cmd.sh").write_text(
            "".join(f"{n}_cmd=utils/run.pl\n" for n in ("train", "cuda", "decode"))
        )
        programs = (warm_python.executable(), sys.executable)
        where = ":".join(shlex.quote(str(Path(file).parent)) for file in programs)
        (root / "path.sh").write_text(f"export PATH={where}:$PATH\n")
        # The front end's sample rate, the normalization and the data are of asr.sh.
        stock = config(normalize=None, max_epoch=2, log_level="INFO")
        self.configure("train_asr", stock)
        self.configure("train_asr_pl", {**stock, **yaml.safe_load(fenced("yaml")[0])})
        self.write(RUN_SH)

    def configure(self, name: str, options: dict[str, Any]) -> None:
        """Write a configuration."""
        path = self.root / "conf" / f"{name}.yaml"
        path.write_text(yaml.safe_dump(options, sort_keys=False))

    def write(self, run_sh: str) -> None:
        """Write `run.sh`."""
        path = self.root / "run.sh"
        path.write_text(run_sh)
        path.chmod(0o755)

    def run(self, script: str) -> str:
        """Run a script that must succeed; return what it printed."""
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def started(self, log: str) -> list[str]:
        """Return the command that a job's log begins with."""
        return shlex.split((self.root / log).read_text().splitlines()[0].strip("# "))

    def program(self, log: str) -> str:
        """Return the file that ran, as ESPnet's commands note it at their start."""
        text = (self.root / log).read_text()
        (found,) = re.findall(
            r"^\S+/python\S* \S+/(espnet\w*/bin/\w+\.py) ", text, re.M
        )
        return found

    def again(self, task: type[ASRTask], log: str, **changes: str) -> None:
        """Give a job's options, with some changes, to a task in this process."""
        words = self.started(log)
        assert words[:5] == "python3 -m espnet_softpl -m espnet2.bin.asr_train".split()
        options = words[5:]
        for name, value in changes.items():
            options[options.index(f"--{name}") + 1] = value
        level = logging.getLogger().level
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(self.root)
                task.main(cmd=options)
        finally:
            logging.getLogger().setLevel(level)


def check_same_statistics(ours: Path, theirs: Path) -> None:
    """Check that two directories of statistics are equal bit for bit."""
    for part in ("train", "valid"):
        for name in ("speech_shape", "text_shape"):
            assert (ours / part / name).read_text() == (
                theirs / part / name
            ).read_text()
        with (
            np.load(ours / part / "feats_stats.npz") as one,
            np.load(theirs / part / "feats_stats.npz") as two,
        ):
            assert {*one} == {*two} and "sum" in one
            assert all(np.array_equal(one[key], two[key]) for key in one)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Run stages 10 and 11 without pseudo-labels: they make the base model."""
    made = Recipe(tmp_path_factory.mktemp("asr1"))
    made.run(f'./run.sh --python "{OURS.replace("python", "python3")}" --stop_stage 11')
    return made


@pytest.mark.slow
def test_without_pl_it_is_the_stock_recipe(recipe: Recipe, tmp_path: Path) -> None:
    stats = f"{STATS}/logdir/stats.1"
    recipe.again(ASRTask, f"{stats}.log", output_dir=str(tmp_path / "stats"))
    check_same_statistics(recipe.root / stats, tmp_path / "stats")
    recipe.again(ASRTask, f"{SEED}/train.log", output_dir=str(tmp_path / "exp"))
    for name in ("latest.pth", "valid.cer_ctc.ave.pth"):
        ours = load(recipe.root / SEED / name)
        assert same_tensors(ours, load(tmp_path / "exp" / name)), name
    log = (recipe.root / SEED / "train.log").read_text()
    assert recipe.program(f"{SEED}/train.log") == "espnet_softpl/bin/train.py"
    assert not re.search(r"\bpl_\w+=\d", log)
    assert not (recipe.root / SEED / "teacher.pth").exists()


@pytest.mark.slow
def test_a_model_of_another_language(recipe: Recipe) -> None:
    """With the option of asr.sh that the page names; two tokens change places."""
    (option,) = re.findall(r"`(--pretrained_model \S+) (--ignore\S+ true)`", PAGE)
    listed = recipe.root / "data/en_token_list/char/tokens.txt"
    tokens = listed.read_text().replace("A\nB\n", "B\nA\n")
    other = recipe.root / "data/xx_token_list/char/tokens.txt"
    other.parent.mkdir(parents=True)
    other.write_text(tokens)
    words = " ".join(option).replace("exp/other/valid.acc.ave.pth", MODEL)
    recipe.run(
        f"./run.sh --python '{OURS}' --stage 11 --stop_stage 11 --asr_exp exp/xx "
        f"--asr_config conf/train_asr_pl.yaml --lang xx --asr_stats_dir {STATS} {words}"
    )
    log = (recipe.root / "exp/xx/train.log").read_text()
    assert "the CTC head, by which the teacher labels, starts again" in log
    first, last = (load(recipe.root / e / "latest.pth") for e in (SEED, "exp/xx"))
    assert list(first) == list(last)


@pytest.fixture(scope="module")
def taught(recipe: Recipe) -> Recipe:
    """Apply the page's diff and run what it says, to the end of the recipe."""
    recipe.write(patched(RUN_SH, *fenced("diff")))
    recipe.run(block("run"))
    return recipe


@pytest.mark.slow
def test_stage_11_learns_from_pseudo_labels(taught: Recipe) -> None:
    exp = taught.root / TAUGHT
    log = (exp / "train.log").read_text()
    assert taught.program(f"{TAUGHT}/train.log") == "espnet_softpl/bin/train.py"
    for key in ("loss_pl", "pl_blank_share", "pl_kept", "pl_length_ratio"):
        assert re.search(rf"\b{key}=-?\d", log), key
    for name in ("teacher.pth", "pl_state", "valid.cer_ctc.ave.pth", "config.yaml"):
        assert (exp / name).exists(), name
    options = yaml.safe_load((exp / "config.yaml").read_text())
    assert options["model"] == "espnet" and options["pl_criterion"] == "hard_ctc"
    assert options["init_param"] == [f"{SEED}/valid.cer_ctc.ave.pth"]
    assert options["normalize_conf"]["stats_file"].startswith(STATS)
    seed, last = (load(taught.root / e / "latest.pth") for e in (SEED, TAUGHT))
    assert list(seed) == list(last) and not same_tensors(seed, last)


@pytest.mark.slow
def test_the_other_stages_are_stock(taught: Recipe) -> None:
    exp = taught.root / TAUGHT
    decoding = f"{TAUGHT}/{DECODED}/logdir/asr_inference.1.log"
    assert taught.program(decoding) == "espnet2/bin/asr_inference.py"
    assert taught.started(decoding)[:3] == ["python3", "-m", "espnet_softpl"]
    scores = exp / DECODED / "score_cer"
    for name in ("ref", "hyp"):
        lines = (scores / f"{name}.trn").read_text().splitlines()
        assert len(lines) == 4 and all(line.endswith(")") for line in lines)
    reference = (taught.root / "dump/raw/test/text").read_text().split()[1]
    assert (scores / "ref.trn").read_text().startswith(" ".join(reference))
    with zipfile.ZipFile(exp / f"{exp.name}_valid.cer_ctc.ave.zip") as archive:
        names = archive.namelist()
    assert f"{TAUGHT}/config.yaml" in names
    assert sum(name.endswith(".pth") for name in names) == 1
    assert not any("teacher" in name or "pl_state" in name for name in names)


@pytest.mark.slow
def test_the_same_line_again_resumes(taught: Recipe) -> None:
    before = load(taught.root / TAUGHT / "latest.pth")
    path = taught.root / "conf" / "train_asr_pl.yaml"
    taught.configure(path.stem, {**yaml.safe_load(path.read_text()), "max_epoch": 3})
    taught.run(f"{block('run').strip()} --stop_stage 11")
    log = (taught.root / TAUGHT / "train.log").read_text()
    assert "The training was resumed using" in log
    assert set(re.findall(r"(\d+)epoch results", log)) == {"3"}
    assert not same_tensors(before, load(taught.root / TAUGHT / "latest.pth"))


@pytest.mark.slow
def test_statistics_take_the_pl_configuration_too(recipe: Recipe, tmp_path) -> None:
    changes = dict(config="conf/train_asr_pl.yaml", output_dir=str(tmp_path))
    recipe.again(SoftPLTask, f"{STATS}/logdir/stats.1.log", **changes)
    check_same_statistics(recipe.root / STATS / "logdir" / "stats.1", tmp_path)
