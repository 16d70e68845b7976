"""`softpl`: every command by one name, and what it answers at once."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import espnet_softpl
from espnet_softpl.cli.__main__ import get_parser, main, names
from tests import ROOT, python_path

FILES = (ROOT / "espnet_softpl" / "bin").glob("[!_]*.py")
COMMANDS = sorted(file.stem for file in FILES)
# Runs a command in a fresh process; the last line is what it has imported.
SCRIPT = """
import sys
from espnet_softpl.cli.__main__ import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    status = end.code
slow = {"torch", "numpy", "espnet", "espnet2", "nltk", "pandas", "scipy", "soundfile"}
print(status, sorted(slow & sys.modules.keys()))
"""


def run_fresh(*words: str) -> tuple[list[str], str]:
    """Return the lines that a fresh process prints, and its errors."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        # Without what the tests' own sitecustomize imports.
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return done.stdout.splitlines(), done.stderr


def test_every_module_of_bin_is_a_command() -> None:
    assert sorted(names().values()) == COMMANDS
    assert {"add", "check-env", "format-audio", "options"} <= names().keys()


@pytest.mark.parametrize("command", [*names(), None])
def test_help_imports_nothing_that_takes_time(command: str | None) -> None:
    lines, errors = run_fresh(*filter(None, [command, "--help"]))
    assert lines[-1] == "0 []" and errors == ""
    assert lines[0].startswith(" ".join(filter(None, ["usage: softpl", command])))
    assert {"--version", "--log-level"} <= set(re.findall(r"--[\w-]+", "".join(lines)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("report none", "softpl report: error: argument EXP: none is no directory"),
        ("add --asr_exp none", "--asr_exp: none is no directory"),
        ("export --asr-exp none", "--asr_exp: none does not exist"),
        ("label --wav_scp none", "--wav_scp: none does not exist"),
        ("format-audio --source none", "--source: none is no directory"),
        ("token-lm --text none", "--text: none does not exist"),
        ("train --config none", "--config: none does not exist"),
        ("train --config .", "--config: . is a directory, not a file"),
        ("label --wav_scp .", "--wav_scp: . is a directory, not a file"),
        ("label --out setup.py", "--out: setup.py is no directory"),
        ("export --option .", "--option: . is a directory, not a file"),
        ("export --out setup.py/x", "/setup.py is no directory"),
        ("token-lm --text .", "--text: . is a directory, not a file"),
        ("token-lm --out .", "--out: . is a directory, not a file"),
        ("format-audio --target setup.py", "--target: setup.py is no directory"),
        ("add --out .", "--out: . is a directory, not a file"),
        ("add --exp_dir setup.py", "--exp_dir: setup.py is no directory"),
        ("report . --out setup.py", "--out: setup.py is no directory"),
        ("demo --out setup.py", "--out: setup.py is no directory"),
        ("make-mini-corpus --out setup.py", "--out: setup.py is no directory"),
        ("add --techer ema", "unknown option '--techer'. Did you mean '--teacher'?"),
        ("add --teacher emma", "Did you mean 'ema'?"),
        ("rport", "Did you mean 'report'?"),
        ("--xyz", "unknown option '--xyz'. See --help."),
    ],
)
def test_what_is_wrong_is_said_at_once_in_a_line(words: str, message: str) -> None:
    lines, errors = run_fresh(*words.split())
    assert lines == ["2 []"]
    assert message in errors and errors.count("\n") == 1, errors


@pytest.mark.parametrize("words", [["--version"], ["report", "--version"]])
def test_the_version(words: list[str], capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(words)
    assert capsys.readouterr().out == f"espnet_softpl {espnet_softpl.__version__}\n"


def test_a_command_runs_and_its_status_is_returned(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["softpl", "check-env", "--quick"])
    assert main() == 0
    assert sys.argv == ["softpl check-env", "--quick"]
    assert "Everything necessary is there." in capsys.readouterr().out


def test_without_words_the_commands_are_listed(capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([])
    listed = re.findall(r"^ {4}([\w-]+)", capsys.readouterr().out, re.M)
    assert listed == [*names()]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shtab_completes_commands_options_and_names(shell: str) -> None:
    """The parser of all commands is what shtab wants; it is an optional tool."""
    shtab = pytest.importorskip("shtab")
    text = shtab.complete(get_parser(), shell)
    assert all(word in text for word in (*names(), "--asr_exp", "delayed"))


def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "espnet_softpl.cli", "report", "none"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": python_path()},
    )
    assert done.returncode == 2
    assert done.stderr == "softpl report: error: argument EXP: none is no directory\n"
