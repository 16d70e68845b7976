"""The command format_audio: what it writes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from espnet_softpl.bin import format_audio
from tests import ROOT
from tests.support.audio_forms import (
    RATE,
    read_entries,
    write_plain,
)

RECIPE = ROOT / "egs2" / "librispeech_softpl"


def test_the_command_formats_a_directory(tmp_path: Path, capsys) -> None:
    source = write_plain(tmp_path / "in", ["A B", "C"], seed=1)
    options = ["--source", str(source), "--target", str(tmp_path / "out"), "--nj", "1"]
    assert format_audio.main([*options, "--fs", str(RATE)]) == 0
    assert "2 utterances" in capsys.readouterr().out
    assert read_entries(tmp_path / "out") == read_entries(source)  # In place.
    for more, message in (
        (["--fs", "8000"], "--resample true"),
        (["--fs", "0"], "at least 1"),
        (["--fs", "16000", "--max_bad_share", "2"], "2 is not in [0, 1]"),
        (["--fs", "16000", "--target", str(source)], "another directory"),
        (["--fs", "16000", "--source", str(tmp_path / "no")], "no is no directory"),
    ):
        with pytest.raises(SystemExit) as ended:
            format_audio.main([*options, *more])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err
