"""What a command that builds a corpus ends with."""

from __future__ import annotations

import argparse
import signal
import subprocess
import time
from pathlib import Path

import pytest

from espnet_softpl.commands.corpus.build import Corpus, CorpusError
from espnet_softpl.commands.corpus.command import corpus_parser, run_command
from tests.support.corpora import command


@pytest.mark.slow
def test_interruption_is_reported_without_traceback(tmp_path: Path) -> None:
    out = tmp_path / "interrupted"
    process = subprocess.Popen(
        command(out, "--scale", "1"),
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets what it starts in the background ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("t*/*/1")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert "run it again" in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("error", "status"), [(CorpusError("no data"), 1), (OSError("no data"), 1)]
)
def test_errors_for_the_user_are_one_line(
    error: Exception, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def plan(options: argparse.Namespace) -> Corpus:
        raise error

    parser = corpus_parser("Makes it.")
    assert run_command(parser, plan, ["--out", str(tmp_path)]) == status
    assert capsys.readouterr().err.endswith(": error: no data\n")


def test_an_option_that_is_not_allowed_is_refused_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def plan(options: argparse.Namespace) -> Corpus:
        raise ValueError(f"seed {options.seed} is not mine")

    with pytest.raises(SystemExit, match="2"):
        parser = corpus_parser("Makes it.")
        run_command(parser, plan, ["--out", str(tmp_path), "--seed", "3"])
    error = capsys.readouterr().err
    assert error.endswith(": error: seed 3 is not mine\n") and error.count("\n") == 1
