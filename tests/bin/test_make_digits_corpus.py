"""Connected digits as their command writes them: determinism, options, errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_softpl.bin.make_digits_corpus import main
from espnet_softpl.commands.corpus import SETS
from espnet_softpl.commands.corpus.digits import DIGITS
from tests.support.corpora import NAMES, SMALL, digit_sound, tree, write_upstream


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recordings of six speakers."""
    return write_upstream(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def corpus(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus of them."""
    out = tmp_path_factory.mktemp("out") / "corpus"
    assert main(["--digits", str(digits), "--out", str(out), "--quiet", *SMALL]) == 0
    return out


@pytest.mark.slow
def test_layout_and_sets(corpus: Path) -> None:
    speakers = {
        name: sorted(path.name for path in (corpus / name).iterdir()) for name in SETS
    }
    assert speakers == {
        "train-labeled": ["1", "2"],
        "train-unlabeled": ["3", "4"],
        "dev": ["5"],
        "test": ["6"],
    }
    table = (corpus / "SPEAKERS.TXT").read_text().splitlines()[3:]
    assert [line.split("|")[4].strip() for line in table] == list(NAMES)
    assert len(list(corpus.rglob("*.flac"))) == 2 * 3 + 2 * 6 + 4 + 4
    for transcript in corpus.rglob("*.trans.txt"):
        for line in transcript.read_text().splitlines():
            name, *words = line.split(" ")
            assert 3 <= len(words) <= 7 and set(words) <= set(DIGITS)
            info = soundfile.info(transcript.parent / f"{name}.flac")
            assert (info.samplerate, info.subtype) == (8000, "PCM_16")
            shortest = len(words) * 0.2 + (len(words) + 1) * 0.05
            longest = len(words) * 0.3 + (len(words) + 1) * 0.3
            assert shortest - 0.01 < info.duration < longest + 0.01


@pytest.mark.slow
def test_audio_says_what_the_transcript_says(corpus: Path) -> None:
    transcript = corpus / "test" / "6" / "1" / "6-1.trans.txt"
    for line in transcript.read_text().splitlines():
        name, *words = line.split(" ")
        samples, rate = soundfile.read(transcript.parent / f"{name}.flac")
        loud = np.convolve(np.abs(samples), np.ones(160) / 160, "same") > 0.05
        edges = np.flatnonzero(np.diff(np.pad(loud.astype(int), 1)))
        heard = []
        for start, end in edges.reshape(-1, 2):
            piece = samples[start:end]
            peak = np.abs(np.fft.rfft(piece, rate)).argmax()
            heard.append(DIGITS[round(peak / 100) - 3])
        assert heard == words
        assert np.abs(samples).max() < 0.96
        assert samples[:100].any(), "silences are faint noise, not zeros"


def test_build_is_reproducible_and_second_run_does_nothing(
    digits: Path, corpus: Path, tmp_path: Path
) -> None:
    out = tmp_path / "again"
    arguments = ["--digits", str(digits), "--out", str(out), "--jobs", "1", *SMALL]
    assert main(arguments) == 0
    assert tree(out) == tree(corpus)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert main(arguments) == 0
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    other = ["--digits", str(digits), "--out", str(tmp_path / "seed"), "--seed", "1"]
    assert main([*other, "--quiet", *SMALL]) == 0
    assert tree(tmp_path / "seed").keys() == tree(corpus).keys()
    assert tree(tmp_path / "seed") != tree(corpus)


def test_interrupted_build_goes_on(digits: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "broken"
    arguments = ["--digits", str(digits), "--out", str(out), "--quiet", *SMALL]
    assert main(arguments) == 0
    for path in (out / "dev").rglob("*.*"):
        path.unlink()
    (out / "dev" / "5" / "1").rmdir()
    (out / "dev" / "5").rmdir()
    assert main(arguments) == 0
    assert tree(out) == tree(corpus)


def test_speakers_rate_and_sex_can_be_chosen(digits: Path, tmp_path: Path) -> None:
    chosen = ["--train-labeled", "fay", "--train-unlabeled", "ann", "bob", "cat"]
    chosen += ["--dev", "dan", "--test", "eve", "--female", "ann", "--rate", "16000"]
    out = tmp_path / "out"
    assert main(["--digits", str(digits), "--out", str(out), *SMALL, *chosen]) == 0
    rows = [
        [cell.strip() for cell in line.split("|")]
        for line in (out / "SPEAKERS.TXT").read_text().splitlines()[3:]
    ]
    assert [(row[4], row[1], row[2]) for row in rows] == [
        ("fay", "M", "train-labeled"),
        ("ann", "F", "train-unlabeled"),
        ("bob", "M", "train-unlabeled"),
        ("cat", "M", "train-unlabeled"),
        ("dan", "M", "dev"),
        ("eve", "M", "test"),
    ]
    info = soundfile.info(next(out.rglob("*.flac")))
    assert info.samplerate == 16000 and 0.8 < info.duration < 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--test", "eve"], "no speakers for train-labeled"),
        (
            "--train-labeled ann --train-unlabeled bob --dev zoe --test eve".split(),
            "no recordings of speaker 'zoe'; there are ann, bob",
        ),
        (
            "--train-labeled ann --train-unlabeled bob --dev bob --test eve".split(),
            "speaker bob is in train-unlabeled and dev",
        ),
        (["--female", "zoe"], "no recordings of speaker 'zoe'"),
        (["--dev-utterances", "0"], "1 to 10000, not 0"),
        (["--rate", "1"], "sample rate must be 4000 to 96000, not 1"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["--seed", "-1"], "--seed must be at least 0"),
    ],
)
def test_illegal_options_are_refused(
    digits: Path,
    tmp_path: Path,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "new"
    with pytest.raises(SystemExit) as caught:
        main(["--digits", str(digits), "--out", str(out), *options])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_missing_recordings_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "new")]
    assert main(["--digits", str(tmp_path / "none"), *out]) == 1
    assert "none is not a directory" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["--digits", str(tmp_path / "empty"), *out]) == 1
    assert "no recordings of digits" in capsys.readouterr().err


def test_too_few_speakers_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ann", "bob"):
        soundfile.write(tmp_path / f"1_{name}_0.wav", digit_sound(1, 0.2), 8000)
    assert main(["--digits", str(tmp_path), "--out", str(tmp_path / "new")]) == 1
    assert "2 speakers (ann, bob), but at least 4" in capsys.readouterr().err


def test_missing_audio_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.trans.txt").write_text(f"{name}-1-0000 ONE\n")
    assert main(["--digits", str(tmp_path), "--out", str(tmp_path / "new")]) == 1
    assert "ann-1-0000.flac" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["damaged", "other rate", "silent"])
def test_unusable_audio_is_named(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = write_upstream(tmp_path / "in", takes=1)
    path = digits / "recordings" / "5_bob_0.wav"
    if kind == "damaged":
        path.write_bytes(b"not audio")
    elif kind == "other rate":
        soundfile.write(path, digit_sound(5, 0.2, 16000), 16000)
    else:
        soundfile.write(path, np.zeros(800), 8000)
    out = tmp_path / "out"
    assert main(["--digits", str(digits), "--out", str(out), "--quiet", *SMALL]) == 1
    error = capsys.readouterr().err
    assert "5_bob_0.wav" in error and "speaker 2 of train-labeled" in error
    assert ("--rate" in error) == (kind == "other rate")
    assert not (out / "train-labeled" / "2").exists()
