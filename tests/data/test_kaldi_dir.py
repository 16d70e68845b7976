"""Segments of recordings are read, or refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from espnet_softpl.core.errors import UserError
from espnet_softpl.data.kaldi_dir import Cut, read_segments
from tests import ROOT
from tests.support.audio_forms import (
    write_lines,
    write_segments,
)

RECIPE = ROOT / "egs2" / "librispeech_softpl"


def test_segments_are_read(tmp_path: Path) -> None:
    path = write_segments(tmp_path / "calls", 1) / "segments"
    cuts = read_segments(path, {"call1": "", "call2": ""})
    assert cuts["call1"] == [Cut("call1-1", 0.25, 1.0, 0), Cut("call1-2", 1.0)]
    assert cuts["call2"] == [Cut("call2-1", 0.5, 2.25, 1)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("call1 0", "'call1 0' is not .*: 3 columns"),
        ("call1 1.0 0.5", "the end is not after the start"),
        ("call1 -1 0.5", "not a time"),
        ("call1 0 nan", "not a time"),
        ("call1 zero 0.5", "could not convert"),
        ("call1 0 1 -1", "no channel"),
        ("call9 0 1", "recordings that wav.scp does not have: call9"),
    ],
)
def test_bad_segments_are_refused(tmp_path: Path, line: str, message: str) -> None:
    path = write_lines(tmp_path / "segments", {"u": line})
    with pytest.raises(UserError, match=message):
        read_segments(path, {"call1": "a.wav"})
