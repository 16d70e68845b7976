"""Connected digits: both input layouts, joining."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest
import soundfile

from espnet_softpl.commands.corpus.build import CorpusError
from espnet_softpl.commands.corpus.digits import (
    DIGITS,
    digits_corpus,
    find_recordings,
    make_utterances,
    some_of,
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


def test_a_part_of_a_speaker_goes_by_number_in_both_layouts() -> None:
    names = ["3_ann_2.wav", "3_ann_10.wav", "ann-3-0002.flac", "ann-3-0011.flac"]
    recordings = {"ann": [Recording("THREE", Path(name)) for name in names]}
    chosen = [each.path.name for each in some_of(recordings, "ann:2-10")]
    assert chosen == names[:3]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ann:2", "must be like NAME:0-14"),
        ("ann:5-9", "no recordings 5 to 9 of 'ann'"),
        ("eve:0-9", "no recordings 0 to 9 of 'eve'"),
    ],
)
def test_a_part_that_is_none_is_refused(name: str, message: str) -> None:
    recordings = {"ann": [Recording("THREE", Path("3_ann_1.wav"))]}
    with pytest.raises(ValueError, match=message):
        some_of(recordings, name)


PARTS = {
    "train-labeled": ["bob"],
    "train-unlabeled": ["ann:0-0"],
    "dev": ["cat"],
    "test": ["ann:1-1"],
}


def test_a_speaker_can_be_adapted_to_and_tested_on(tmp_path: Path) -> None:
    """One recording of each digit is unlabeled, the other one is for test."""
    digits = write_upstream(tmp_path)
    corpus = digits_corpus(digits, 0, PARTS, dict.fromkeys(PARTS, 3), female=["ann"])
    by_set = {each.set_name: each for each in corpus.speakers}
    parts = [by_set[name] for name in ("train-unlabeled", "test")]
    files = [{each.path for each in part.recordings} for part in parts]
    assert [len(each) for each in files] == [10, 10] and not files[0] & files[1]
    assert len({each.speaker for each in corpus.speakers}) == 4
    assert [each.sex for each in parts] == ["F", "F"]


def test_a_recording_in_two_sets_is_refused(tmp_path: Path) -> None:
    digits = write_upstream(tmp_path)
    for part in ("ann:0-1", "ann"):
        speakers = {**PARTS, "test": [part]}
        with pytest.raises(ValueError, match=f"is in ann:0-0 and {part}"):
            digits_corpus(digits, 0, speakers, dict.fromkeys(PARTS, 3))
