"""Connected words: layouts, transcripts, the split by speaker, joining."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_softpl.commands.corpus import SETS
from espnet_softpl.commands.corpus.build import Corpus, CorpusError
from espnet_softpl.commands.corpus.words import (
    find_recordings,
    make_utterances,
    words_corpus,
)
from tests.support.corpora import word_sound, write_words

GOOGLE = [f"0000000{speaker}_nohash_0.wav" for speaker in range(8)]
WORDS = "go no yes up down left right stop on off".split()
TABLE = "".join(f"{word}\tW{word.upper()}\n" for word in WORDS)


def plan(root: Path, labeled: int = 1, words: int | None = None, **more) -> Corpus:
    """Plan a corpus with a labeled, a dev and a test speaker."""
    speakers = dict(zip(SETS, (labeled, None, 1, 1), strict=True))
    return words_corpus(root, 0, speakers, dict.fromkeys(SETS, words), **more)


def names(corpus: Corpus) -> dict[str, set[str]]:
    """Return the speakers of each set."""
    each = corpus.speakers
    return {name: {one.name for one in each if one.set_name == name} for name in SETS}


def test_googles_layout_is_read(tmp_path: Path) -> None:
    write_words(tmp_path, ["yes", "_silence_"], ["0c540988_nohash_2.wav"])
    write_words(tmp_path, ["yes"], ["12345678_nohash_0.flac"])
    write_words(tmp_path, ["_unknown_"], ["bed_0c540988_nohash_1.wav.ogg"])
    (tmp_path / "_unknown_" / "LICENSE").write_text("free")
    found = find_recordings(tmp_path)
    # A hash that is all digits is no number of an Arabic speaker.
    assert {
        name: [(word, path.name) for word, path in own] for name, own in found.items()
    } == {
        "0c540988": [
            ("BED", "bed_0c540988_nohash_1.wav.ogg"),
            ("YES", "0c540988_nohash_2.wav"),
        ],
        "12345678": [("YES", "12345678_nohash_0.flac")],
    }


@pytest.mark.parametrize("where", ["beside", "above", "elsewhere"])
def test_the_arabic_layout_is_read(tmp_path: Path, where: str) -> None:
    root = tmp_path / "in" / "dataset"
    write_words(root, ["zoom in", "yes"], ["00000001_NO_01.wav", "00000030_NO_10.wav"])
    table = {"beside": root, "above": root.parent, "elsewhere": tmp_path}[where]
    (table / "words.tsv").write_text("zoom in\tTAKBIR\nyes\tNAAM\nno\tLA\n")
    given = table / "words.tsv" if where == "elsewhere" else None
    found = find_recordings(root, given)
    assert {name: [word for word, _ in own] for name, own in found.items()} == {
        "01": ["NAAM", "TAKBIR"],
        "30": ["NAAM", "TAKBIR"],
    }


@pytest.mark.parametrize(
    ("folder", "name", "table", "message"),
    [
        ("yes", "yes.wav", "", "yes.wav is not named as it should be: expected"),
        ("_unknown_", GOOGLE[0], "", "is not named as it should be"),
        ("yes", "notes.txt", "", "no recordings of words in .*expected is a folder"),
        ("yes", "00000001_NO_01.wav", "", "name a table with --table"),
        ("3", GOOGLE[0], "", "'3' is not a word of A-Z: use a table"),
        ("yes", GOOGLE[0], "no\tNO\n", r"words.tsv has no line for 'yes'"),
        ("yes", GOOGLE[0], "yes NO\n", r"words.tsv, line 1: 'yes NO' is not"),
        ("yes", GOOGLE[0], "yes\tno\n", r"words.tsv, line 1"),
        ("yes", GOOGLE[0], "yes\tNO\nyes\tYES\n", r"words.tsv, line 2"),
    ],
)
def test_what_does_not_fit_is_named(
    tmp_path: Path, folder: str, name: str, table: str, message: str
) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / name).write_bytes(b"")
    if table:
        (tmp_path / "words.tsv").write_text(table)
    with pytest.raises(CorpusError, match=message):
        find_recordings(tmp_path)


def test_speakers_are_drawn_by_the_seed(tmp_path: Path) -> None:
    root = write_words(tmp_path / "dataset", WORDS, GOOGLE)
    (root / "go" / GOOGLE[0]).unlink()
    first = names(plan(tmp_path, min_recordings=10))
    drawn = [name for own in first.values() for name in own]
    assert sorted(drawn) == [f"0000000{number}" for number in range(1, 8)]
    assert [len(own) for own in first.values()] == [1, 4, 1, 1]
    more = names(plan(root, labeled=3, min_recordings=10))
    assert len(more["train-labeled"]) == 3
    assert all(first[name] == more[name] for name in ("dev", "test"))
    limits = dict.fromkeys(SETS)
    numbers = dict.fromkeys(SETS, 1)
    others = [names(words_corpus(root, seed, numbers, limits)) for seed in range(5)]
    assert any(each != others[0] for each in others)


def test_files_of_the_same_bytes_are_used_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_words(tmp_path, WORDS, GOOGLE)
    copy = tmp_path / "up" / GOOGLE[7]
    shutil.copy(tmp_path / "go" / GOOGLE[0], copy)
    kept = [each.path for one in plan(tmp_path).speakers for each in one.recordings]
    assert copy not in kept and len(kept) == 8 * 10 - 1
    error = capsys.readouterr().err
    assert error.startswith(f"recordings left out (1): {copy} is the same as ")


def test_no_recording_is_used_twice(tmp_path: Path) -> None:
    write_words(tmp_path, WORDS, GOOGLE)
    for speaker in plan(tmp_path).speakers:
        texts = [each.text.split() for each in make_utterances(speaker)]
        assert all(3 <= len(words) <= 6 for words in texts)
        # One recording of each word.
        assert sorted(sum(texts, [])) == sorted(word.upper() for word in WORDS)
    for speaker in plan(
        tmp_path, 1, 7, per_utterance=(7, 8), min_recordings=8
    ).speakers:
        (utterance,) = make_utterances(speaker)
        assert len(set(utterance.text.split())) == 7


def test_some_background_stays_at_each_side(tmp_path: Path) -> None:
    write_words(tmp_path, WORDS, GOOGLE)
    for utterance in make_utterances(plan(tmp_path).speakers[0]):
        loud = np.abs(utterance.samples) > 1000
        assert utterance.samples[100 : loud.argmax()].any(), "background, not zeros"
        margins = len(loud) / 16000 - 0.2 * len(utterance.text.split())
        assert 0.1 - 0.05 < margins / len(utterance.text.split()) < 0.3 + 0.05
        assert 0.04 < loud.argmax() / 16000 < 0.18


def test_others_take_the_place_of_what_is_unusable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_words(tmp_path, WORDS, GOOGLE)
    sounds = {"go": np.zeros(8000), "up": word_sound(5)[:800], "on": np.ones((9000, 2))}
    speaker = plan(tmp_path).speakers[0]
    name = f"{speaker.name}_nohash_0.wav"
    paths = {word: tmp_path / word / name for word in WORDS}
    for word, sound in sounds.items():
        soundfile.write(paths[word], sound / 2, 16000)
    paths["yes"].write_bytes(b"not audio")
    texts = [each.text.split() for each in make_utterances(speaker)]
    assert set(sum(texts, [])) == {"NO", "DOWN", "LEFT", "RIGHT", "STOP", "OFF"}
    error = capsys.readouterr().err
    assert error.startswith(f"speaker {speaker.name}: recordings left out (4): ")
    assert all(str(paths[word]) in error for word in ("go", "up", "on", "yes"))
    for word in WORDS[4:]:
        paths[word].write_bytes(b"not audio")
    with pytest.raises(CorpusError, match="has 1 usable recordings"):
        list(make_utterances(speaker))


def test_a_table_gives_the_transcripts(tmp_path: Path) -> None:
    write_words(tmp_path, WORDS, GOOGLE[:4])
    table = tmp_path / "other.tsv"
    table.write_text(TABLE)
    corpus = plan(tmp_path, table=table)
    for utterance in make_utterances(corpus.speakers[0]):
        assert all(word.startswith("W") for word in utterance.text.split())
    assert corpus.settings["recordings"] != plan(tmp_path).settings["recordings"]
