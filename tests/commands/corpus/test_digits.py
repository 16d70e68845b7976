"""Connected digits: both input layouts, joining."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest
import soundfile

from espnet_softpl.commands.corpus.build import CorpusError
from espnet_softpl.commands.corpus.digits import (
    DIGITS,
    find_recordings,
    make_utterances,
)
from espnet_softpl.commands.corpus.joining import RecordedSpeaker, Recording
from tests.support.corpora import NAMES, digit_sound, write_upstream


def test_librispeech_layout_is_read(tmp_path: Path) -> None:
    for part in ("train", "test"):
        folder = tmp_path / part / "ann" / "7"
        folder.mkdir(parents=True)
        soundfile.write(folder / "ann-7-0000.flac", digit_sound(7, 0.2), 8000)
        (folder / "ann-7.trans.txt").write_text("ann-7-0000 SEVEN\n")
    found = find_recordings(tmp_path)
    paths = [tmp_path / part / "ann/7/ann-7-0000.flac" for part in ("test", "train")]
    assert found == {"ann": [Recording("SEVEN", path) for path in paths]}


def test_recordings_directory_itself_is_read(tmp_path: Path) -> None:
    digits = write_upstream(tmp_path)
    inside = find_recordings(digits / "recordings")
    assert inside == find_recordings(digits)
    assert list(inside) == list(NAMES)
    assert collections.Counter(each.word for each in inside["ann"]) == dict.fromkeys(
        DIGITS, 2
    )


def test_recordings_are_used_equally_often(tmp_path: Path) -> None:
    recordings = []
    for digit in range(10):
        path = tmp_path / f"{digit}.wav"
        soundfile.write(path, digit_sound(digit, 0.1), 8000)
        recordings.append(Recording(DIGITS[digit], path))
    speaker = RecordedSpeaker(
        "dev", 1, "M", "ann", 50, 0, tuple(recordings), 8000, False
    )
    words = [word for each in make_utterances(speaker) for word in each.text.split()]
    counts = collections.Counter(words)
    assert len(counts) == 10 and max(counts.values()) - min(counts.values()) <= 1


def test_transcript_that_is_no_digit_is_named(tmp_path: Path) -> None:
    (tmp_path / "a-1.trans.txt").write_text("a-1-0000 ONE\na-1-0001 HELLO\n")
    with pytest.raises(CorpusError, match=r"a-1.trans.txt, line 2: 'HELLO'"):
        find_recordings(tmp_path)
