"""Connected words as their command writes them: determinism, options, errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_softpl.bin.make_words_corpus import main
from espnet_softpl.commands.corpus import SETS
from tests.support.corpora import tree, write_words

WORDS = "go no yes up down left right stop".split()
NAMES = ("0a", "0b", "0c", "0d", "0e", "0f")
SMALL = "--labeled_speakers 2 --dev_speakers 1 --test_speakers 1 --labeled_words 7"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of six speakers, in three formats."""
    formats = ("wav", "flac", "ogg")
    files = [f"{n}000000_nohash_0.{formats[i % 3]}" for i, n in enumerate(NAMES)]
    return write_words(tmp_path_factory.mktemp("words"), WORDS, files)


@pytest.fixture(scope="module")
def corpus(words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus of them."""
    out = tmp_path_factory.mktemp("out") / "corpus"
    arguments = ["--words", str(words), "--out", str(out), "--jobs", "2", "--quiet"]
    assert main([*arguments, *SMALL.split()]) == 0
    return out


def test_layout_and_sets(corpus: Path) -> None:
    speakers = [[path.name for path in (corpus / each).iterdir()] for each in SETS]
    assert [len(each) for each in speakers] == [2, 2, 1, 1]
    assert sorted(sum(speakers, [])) == list("123456")
    table = (corpus / "SPEAKERS.TXT").read_text().splitlines()[3:]
    assert sorted(line.split("|")[4].strip()[:2] for line in table) == list(NAMES)
    for transcript in corpus.rglob("*.trans.txt"):
        lines = transcript.read_text().splitlines()
        expected = 7 if "train-labeled" in str(transcript) else 8
        assert sum(len(line.split()) - 1 for line in lines) == expected


def test_audio_says_what_the_transcript_says(corpus: Path) -> None:
    transcript = next((corpus / "test").rglob("*.trans.txt"))
    for line in transcript.read_text().splitlines():
        name, *spoken = line.split(" ")
        samples, rate = soundfile.read(transcript.parent / f"{name}.flac")
        assert rate == 16000 and 3 <= len(spoken) <= 6
        loud = np.convolve(np.abs(samples), np.ones(320) / 320, "same") > 0.05
        edges = np.flatnonzero(np.diff(np.pad(loud.astype(int), 1)))
        pitches = [
            round(np.abs(np.fft.rfft(samples[start:end], rate)).argmax() / 100)
            for start, end in edges.reshape(-1, 2)
        ]
        assert [WORDS[pitch - 3].upper() for pitch in pitches] == spoken


def test_build_is_the_same_with_any_number_of_jobs(
    words: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--words", str(words), "--out", str(tmp_path / "again"), "--jobs", "1"]
    assert main([*arguments, *SMALL.split()]) == 0
    assert tree(tmp_path / "again") == tree(corpus)
    assert "train-unlabeled: 2 speakers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--labeled_speakers 9", "20 speakers or more are asked for, but 6 have 6 rec"),
        ("--min_recordings 9", "21 speakers or more are asked for, but 0 have 9 rec"),
        ("--min_recordings 2", "must be at least 3, those of an utterance, not 2"),
        ("--dev_speakers 0", "speakers of dev must be 1 or more, not 0"),
        ("--test_words 2", "words of a speaker of test must be at least 3"),
        ("--words_per_utterance 5 4", "the first from 1 to the second, not 5 4"),
        ("--rate 1", "sample rate must be 4000 to 96000, not 1"),
        ("--seed -1", "--seed must be at least 0"),
    ],
)
def test_bad_options_are_refused(
    words: Path,
    tmp_path: Path,
    options: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "new"
    with pytest.raises(SystemExit) as caught:
        main(["--words", str(words), "--out", str(out), *options.split()])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_recordings_that_are_not_there_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "new")]
    assert main(["--words", str(tmp_path / "none"), *out]) == 1
    assert "none is not a directory" in capsys.readouterr().err
    assert main(["--words", str(tmp_path), *out]) == 1
    assert "expected is a folder for each word" in capsys.readouterr().err
    missing = ["--table", str(tmp_path / "no.tsv")]
    assert main(["--words", str(tmp_path), *missing, *out]) == 1
    assert "no.tsv" in capsys.readouterr().err
