"""docs/first_run.md, run as a newcomer does; and the script that runs it."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml

from tests import ROOT
from tests.support import warm_python

PAGE = (ROOT / "docs" / "first_run.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S)
RECIPE = "clone/egs2/librispeech_softpl"


def newcomer(*arguments: object, timeout: float = 60) -> tuple[int, str]:
    """Run the script; return its status, and output and errors in one text."""
    result = subprocess.run(
        [ROOT / "tests" / "newcomer.sh", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )
    return result.returncode, result.stdout


def one_line(text: str) -> str:
    """Join continued lines, and all white space into single spaces."""
    return " ".join(text.replace("\\\n", " ").split())


def test_the_page_has_each_step_once_and_in_order() -> None:
    wanted = [
        "tools/setup_venv.sh",
        "./run.sh --stage 1 --stop-stage 7",
        "python -m espnet2.bin.asr_train",
        "python -m espnet_softpl.bin.add_pl",
        "sed -i",
        "python -m espnet_softpl.bin.train",
        "python -m espnet2.bin.asr_inference",
        "python -m espnet_softpl.bin.report",
        "python -m espnet_softpl.bin.export",
    ]
    assert len(BLOCKS) == len(wanted)
    for command, block in zip(wanted, BLOCKS):
        assert command in block
        assert PAGE.count(f"    {command}") + PAGE.count(f"\n{command}") == 1


def test_nothing_is_edited_but_the_line_of_the_criterion() -> None:
    (edit,) = [block for block in BLOCKS if "sed" in block]
    assert one_line(edit) == (
        "sed -i 's/^pl_criterion: .*/pl_criterion: soft_ctc/' conf/train_asr_pl.yaml"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a directory"),
        (["--scale", "huge", "new"], "--scale must be full or tiny, not 'huge'"),
        (["--until", "0", "new"], "--until must be at least 1, not '0'"),
        (["--python", "no/python", "new"], "cannot run 'no/python'"),
        (["new", "other"], "one directory, but got new and other"),
        (["--sclae", "tiny", "new"], "unknown option --sclae"),
        (["--scale"], "--scale needs a value"),
        ([ROOT / "docs"], "is not empty"),
    ],
)
def test_the_script_refuses_what_it_cannot_do(arguments, message) -> None:
    status, output = newcomer(*arguments)
    assert status == 2
    assert message in output


def test_the_script_ends_where_a_block_fails(tmp_path: Path) -> None:
    fails = tmp_path / "bin" / "python"
    fails.parent.mkdir()
    fails.write_text("#!/bin/sh\nexit 7\n")
    fails.chmod(0o755)
    # Without a Python block 2 cannot begin.
    status, output = newcomer("--python", fails, "--until", 3, tmp_path / "new")
    assert status not in (0, 2)
    assert "block 1: " in output and "block 2: failed" in output
    assert "block 3" not in output


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of the page at a tenth of its size; the environment is this one."""
    directory = tmp_path_factory.mktemp("newcomer") / "new"
    with warm_python.of_checkout(directory / "clone") as python:
        status, output = newcomer(
            *("--scale", "tiny", "--python", python, directory), timeout=900
        )
    logs = sorted(directory.glob("block*.log"))
    assert status == 0, output + logs[-1].read_text()[-3000:]
    for number in range(1, len(BLOCKS) + 1):
        assert re.search(rf"^block {number}: \d+ s$", output, re.M)
    return directory


def log(run: Path, number: int) -> str:
    """Return what a block printed."""
    return (run / f"block{number}.log").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_command_on_the_page_is_the_one_that_was_printed(run: Path) -> None:
    assert one_line(BLOCKS[5]) in one_line(log(run, 4))


@pytest.mark.slow
def test_the_configuration_is_that_of_the_seed_and_what_pl_needs(run: Path) -> None:
    written = yaml.safe_load((run / RECIPE / "conf/train_asr_pl.yaml").read_text())
    seed = yaml.safe_load((run / RECIPE / "exp/seed/config.yaml").read_text())
    assert written["pl_criterion"] == "soft_ctc"
    for key in ("encoder", "encoder_conf", "token_type"):
        assert written[key] == seed[key], key


@pytest.mark.slow
def test_what_comes_out_is_a_stock_experiment(run: Path) -> None:
    trained = run / RECIPE / "exp" / "pl"
    for name in ("valid.cer_ctc.ave.pth", "teacher.pth", "config.yaml"):
        assert (trained / name).exists(), name
    config = yaml.safe_load((trained / "config.yaml").read_text())
    assert config["model"] == "espnet"
    wanted = (run / RECIPE / "dump/mini/org/test/wav.scp").read_text().splitlines()
    for name in ("seed", "pl"):
        text = run / RECIPE / "exp" / name / "decode/test/1best_recog/text"
        keys = [line.split()[0] for line in text.read_text().splitlines()]
        assert sorted(keys) == sorted(line.split()[0] for line in wanted)


@pytest.mark.slow
def test_the_report_is_one_page_about_both(run: Path) -> None:
    page = (run / RECIPE / "report" / "report.html").read_text(encoding="utf-8")
    assert "seed, pl" in page
    for part in ("test WER", "pl_blank_share", "pl_mutual_information"):
        assert part in page
    assert not re.search(r"""(?:src|href)=["']https?:""", page)


@pytest.mark.slow
def test_the_archive_is_stock(run: Path) -> None:
    with zipfile.ZipFile(run / RECIPE / "model.zip") as archive:
        names = archive.namelist()
        meta = yaml.safe_load(archive.read("meta.yaml"))
        (config,) = [name for name in names if name.endswith("config.yaml")]
        assert yaml.safe_load(archive.read(config))["model"] == "espnet"
    assert set(meta["files"]) == {"asr_model_file"}
    assert meta["files"]["asr_model_file"] in names
