"""Joining of recordings: where the word is, sizes of utterances, reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_softpl.commands.corpus.build import CorpusError
from espnet_softpl.commands.corpus.joining import (
    RecordedSpeaker,
    Recording,
    faded,
    find_word,
    fingerprint,
    split,
)
from tests.support.corpora import word_sound


@pytest.mark.parametrize("background", [0.0, 1e-4, 1e-2])
@pytest.mark.parametrize("level", [0.01, 1.0])
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_the_word_is_found(background: float, level: float, offset: float) -> None:
    start, end = find_word(word_sound(5, background) * level + offset, 16000)
    assert abs(start - 4800) <= 320 and abs(end - 8000) <= 320


def test_a_word_that_fills_the_recording_is_kept() -> None:
    start, end = find_word(word_sound(5)[5000:7800], 16000)
    assert start == 0 and end >= 2800 - 160


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (word_sound(5)[:1500], r"is too short: 0\.09 s"),
        (word_sound(5) * 1e-4, "is silent: -"),
        (np.where(np.arange(12800) // 160 == 30, 0.5, word_sound(5)[:1]), "no word"),
    ],
)
def test_a_recording_without_a_word_is_refused(
    samples: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        find_word(samples, 16000)


@pytest.mark.parametrize(("fewest", "most"), [(3, 6), (4, 5), (1, 1), (5, 5)])
def test_sizes_are_possible_and_use_all_words_that_can_be(
    fewest: int, most: int
) -> None:
    draw, sums = np.random.default_rng(0), {0}
    for _ in range(30):  # What up to 30 utterances can have.
        sums |= {a + b for a in sums for b in range(fewest, most + 1) if a + b <= 30}
    for count in range(31):
        sizes = split(count, fewest, most, draw)
        assert sum(sizes) == max(each for each in sums if each <= count)
        assert all(fewest <= size <= most for size in sizes)
    drawn = {size for _ in range(50) for size in split(30, fewest, most, draw)}
    assert drawn == set(range(fewest, most + 1))


def test_fading_changes_the_ends_of_a_copy() -> None:
    samples = np.ones(400)
    result = faded(samples, 16000)
    assert result[0] == result[-1] == 0.0 and samples.all()
    np.testing.assert_array_equal(result[80:-80], samples[80:-80])


@pytest.mark.parametrize("kind", ["stereo", "silent", "not finite", "text", "missing"])
def test_audio_that_cannot_be_used_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.wav"
    if kind == "text":
        path.write_text("not audio")
    elif kind != "missing":
        shape = (800, 2) if kind == "stereo" else 800
        value = {"stereo": 0.1, "silent": 0.0, "not finite": np.nan}[kind]
        soundfile.write(path, np.full(shape, value), 8000, subtype="FLOAT")
    speaker = RecordedSpeaker("dev", 1, "M", "ann", 1, 0, (), 8000, False)
    with pytest.raises(CorpusError, match="a.wav"):
        speaker.read(path)


def test_rates_are_changed_if_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, word_sound(5), 16000)
    allowed = RecordedSpeaker("dev", 1, "M", "ann", 1, 0, (), 8000, True)
    assert allowed.read(path).shape == (6400,)
    refused = RecordedSpeaker("dev", 1, "M", "ann", 1, 0, (), 8000, False)
    with pytest.raises(CorpusError, match=r"a.wav has a sampling rate of 16000"):
        refused.read(path)


def test_the_fingerprint_tells_names_words_and_sizes(tmp_path: Path) -> None:
    for name, size in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).write_bytes(bytes(size))
    each = [("ONE", "a"), ("ONE", "b"), ("ONE", "c"), ("TWO", "a")]
    found = {
        fingerprint(tmp_path, {"ann": [Recording(word, tmp_path / name)]})
        for word, name in each
    }
    assert len(found) == len(each)
