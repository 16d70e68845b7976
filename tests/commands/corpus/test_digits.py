"""Connected digits: both input layouts, joining, determinism, errors."""

import collections
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_softpl.bin.make_digits_corpus import main
from espnet_softpl.commands.corpus.digits import (
    DIGITS,
    SETS,
    DigitSpeaker,
    Recording,
    find_recordings,
    make_utterances,
)
from espnet_softpl.commands.corpus.librispeech import CorpusError

NAMES = ("ann", "bob", "cat", "dan", "eve", "fay")
SMALL = [
    f"--{name}-utterances={count}"
    for name, count in zip(SETS, (3, 6, 4, 4), strict=True)
]


def digit_sound(digit: int, seconds: float, rate: int = 8000) -> np.ndarray:
    """Returns a tone whose pitch tells the digit."""
    times = np.arange(seconds * rate) / rate
    return 0.3 * np.sin(2 * np.pi * (digit + 3) * 100 * times)


def write_upstream(root: Path, takes: int = 2, rate: int = 8000) -> Path:
    """Writes recordings as the Free Spoken Digit Dataset has them."""
    (root / "recordings").mkdir(parents=True)
    for name in NAMES:
        for digit in range(10):
            for take in range(takes):
                path = root / "recordings" / f"{digit}_{name}_{take}.wav"
                sound = digit_sound(digit, 0.2 + 0.1 * take, rate)
                soundfile.write(path, sound, rate, subtype="PCM_16")
    return root


def tree(root: Path) -> dict[str, bytes]:
    """Returns every file below a directory with its contents."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


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


def test_librispeech_layout_is_read(tmp_path: Path) -> None:
    for part in ("train", "test"):
        folder = tmp_path / part / "ann" / "7"
        folder.mkdir(parents=True)
        soundfile.write(folder / "ann-7-0000.flac", digit_sound(7, 0.2), 8000)
        (folder / "ann-7.trans.txt").write_text("ann-7-0000 SEVEN\n")
    found = find_recordings(tmp_path)
    paths = [tmp_path / part / "ann/7/ann-7-0000.flac" for part in ("test", "train")]
    assert found == {"ann": [Recording("SEVEN", path) for path in paths]}


def test_recordings_directory_itself_is_read(digits: Path) -> None:
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
    speaker = DigitSpeaker("dev", 1, "M", "ann", 50, 0, tuple(recordings), 8000, False)
    words = [word for each in make_utterances(speaker) for word in each.text.split()]
    counts = collections.Counter(words)
    assert len(counts) == 10 and max(counts.values()) - min(counts.values()) <= 1


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


def test_transcript_that_is_no_digit_is_named(tmp_path: Path) -> None:
    (tmp_path / "a-1.trans.txt").write_text("a-1-0000 ONE\na-1-0001 HELLO\n")
    with pytest.raises(CorpusError, match=r"a-1.trans.txt, line 2: 'HELLO'"):
        find_recordings(tmp_path)


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
