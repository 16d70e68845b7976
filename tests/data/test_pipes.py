"""Commands in wav.scp: a shell runs them, and their failures are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from espnet_softpl.data import pipes
from tests import ROOT
from tests.support.audio_forms import (
    CAT,
)

RECIPE = ROOT / "egs2" / "librispeech_softpl"


def test_a_shell_runs_commands(tmp_path: Path) -> None:
    odd = tmp_path / "two words; touch hacked"
    odd.write_bytes(b"abc")
    assert pipes.run_pipe(f"{CAT} '{odd}' |") == b"abc"
    assert pipes.run_pipe(f"{CAT} '{odd}' | tail -c 2 | head -c 1 |") == b"b"
    assert pipes.run_pipe(f"FILE='{odd}'; cat < \"$FILE\" 2> /dev/null |") == b"abc"
    # The first program is stopped by the second, which is no failure.
    big = "head -c 9000000 /dev/zero | head -c 5 |"
    assert pipes.run_pipe(big) == bytes(5)
    assert not Path("hacked").exists()


def test_a_command_has_no_input() -> None:
    """It would wait for ever for what nobody types."""
    assert pipes.run_pipe("cat |") == b""


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended with status 1: .*No such file"):
        pipes.run_pipe(f"tail {tmp_path}/gone |")
    with pytest.raises(RuntimeError, match="ended with status 1: .*No such file"):
        pipes.run_pipe(f"tail {tmp_path}/gone | tail |")
    with pytest.raises(RuntimeError, match="ended with status 127: .*no_such_program"):
        pipes.run_pipe("no_such_program | tail |")
    with pytest.raises(RuntimeError, match="ended with status 2: .*quote|matching"):
        pipes.run_pipe("cat 'a.wav |")


@pytest.mark.parametrize("value", ["cat a.wav", "|", " | ", "| cat a.wav"])
def test_what_is_no_command_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="no command that ends in"):
        pipes.run_pipe(value)


def test_commands_are_told_from_files() -> None:
    assert pipes.is_command("cat a.wav | ") and pipes.is_command("| cat")
    assert not pipes.is_command("a|b.wav")


def test_copies_are_read_as_the_file() -> None:
    copies = {
        "cat a.wav |": "a.wav",
        "wav-copy a.ark:12 - |": "a.ark:12",
        " kaldi/featbin/wav-copy a.ark:12 -|": "a.ark:12",
        "cat a.wav b.wav |": None,
        "cat a*.wav |": None,
        "cat 'a b.wav' |": None,
        "wav-copy a.wav b.wav |": None,
        "sox a.wav -t wav - |": None,
    }
    assert {value: pipes.copied_file(value) for value in copies} == copies
