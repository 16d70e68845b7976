"""Building: determinism, restarts, locks, and what is refused."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from espnet_softpl.bin import make_mini_corpus
from espnet_softpl.bin.make_mini_corpus import main
from espnet_softpl.commands.corpus import build, mini
from espnet_softpl.commands.corpus.build import (
    Corpus,
    CorpusError,
    Speaker,
    Utterance,
    write_speaker,
)
from tests.support.corpora import MARKER, SCALE, command, tree


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus, built one speaker after the other."""
    out = tmp_path_factory.mktemp("mini") / "corpus"
    assert main(["--out", str(out), "--scale", SCALE, "--jobs", "1", "--quiet"]) == 0
    return out


@pytest.mark.slow
def test_build_does_not_depend_on_jobs_or_process(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    result = subprocess.run(
        command(out, "--jobs", "3"), capture_output=True, text=True, check=True
    )
    assert tree(out) == tree(corpus)
    assert result.stderr == "", "progress is for terminals"
    assert "train-unlabeled: 4 speakers, 48 utterances" in result.stdout


@pytest.mark.slow
def test_killed_build_goes_on_to_the_same_corpus(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    process = subprocess.Popen(command(out, "--jobs", "1", "--quiet"))
    deadline = time.monotonic() + 60
    while not list(out.glob("t*/*/1")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = list(out.glob("t*/*/1/*-0000.flac"))
    assert finished and not (out / MARKER).exists()
    times = {path: path.stat().st_mtime_ns for path in finished}
    assert main(["--out", str(out), "--scale", SCALE, "--quiet"]) == 0
    assert tree(out) == tree(corpus)
    assert times == {path: path.stat().st_mtime_ns for path in finished}


@pytest.mark.slow
def test_second_run_changes_nothing(corpus: Path) -> None:
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}

    before = times()
    assert main(["--out", str(corpus), "--scale", SCALE]) == 0
    assert times() == before


@pytest.mark.parametrize("option", [("--seed", "1"), ("--scale", "0.06")])
def test_other_settings_are_refused(
    corpus: Path, option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(corpus)
    assert main(["--out", str(corpus), "--scale", SCALE, *option]) == 1
    error = capsys.readouterr().err
    assert "other settings" in error and f"{option[0][2:]} 0" in error
    assert tree(corpus) == before


def test_directory_with_other_files_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["--out", str(tmp_path)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert tree(tmp_path) == {"notes.txt": b"mine"}


def test_damaged_marker_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / MARKER).write_text("{")
    assert main(["--out", str(tmp_path)]) == 1
    assert f"{MARKER} is damaged" in capsys.readouterr().err


def test_two_builds_at_once_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".partial").mkdir()
    with (tmp_path / ".partial" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["--out", str(tmp_path), "--scale", SCALE]) == 1
    assert "another process" in capsys.readouterr().err


def test_failing_speaker_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = mini.mini_corpus(0, 0.05)
    broken = mini.MiniSpeaker(**{**vars(plan.speakers[-1]), "voice": "xx-none+f3"})
    speakers = [*plan.speakers[:1], broken]
    fake = plan._replace(speakers=speakers)
    monkeypatch.setattr(make_mini_corpus, "_plan", lambda options: fake)
    assert main(["--out", str(tmp_path / "new"), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "speaker 4001 of test" in error and "voice xx-none+f3" in error
    assert not (tmp_path / "new" / "test" / "4001").exists()


@pytest.mark.parametrize(
    ("text", "samples"),
    [
        ("lower", np.ones(9, np.int16)),
        ("TWO  SPACES", np.ones(9, np.int16)),
        ("", np.ones(9, np.int16)),
        ("SILENCE", np.zeros(9, np.int16)),
        ("FLOATS", np.ones(9)),
    ],
)
def test_malformed_utterance_is_never_written(
    tmp_path: Path, text: str, samples: np.ndarray
) -> None:
    (tmp_path / build.PARTIAL).mkdir()
    speaker = Speaker("dev", 7, "F", "nobody", 1)
    with pytest.raises(ValueError, match="7-1-0000"):
        write_speaker(tmp_path, speaker, [Utterance(text, samples)], 8000)
    assert not (tmp_path / "dev").exists()


def test_speaker_finished_by_another_process_is_kept(tmp_path: Path) -> None:
    speaker = Speaker("dev", 7, "F", "nobody", 1)
    (tmp_path / build.PARTIAL).mkdir()
    utterances = [Utterance("HELLO", np.ones(9, np.int16))]
    for _ in range(2):
        write_speaker(tmp_path, speaker, utterances, 8000)
    assert sorted(tree(tmp_path)) == ["dev/7/1/7-1-0000.flac", "dev/7/1/7-1.trans.txt"]
    assert not list((tmp_path / build.PARTIAL).iterdir())


def test_marker_tells_the_settings_and_sizes(corpus: Path) -> None:
    marker = json.loads((corpus / MARKER).read_text())
    assert marker["settings"]["seed"] == 0 and marker["settings"]["scale"] == 0.05
    assert list(marker["sets"]) == sorted(mini.SETS)
    assert marker["sets"]["train-unlabeled"]["utterances"] == 48
    assert marker["sets"]["train-unlabeled"]["speakers"] == 4


def test_seed_changes_speech_and_text(corpus: Path, tmp_path: Path) -> None:
    plans = [mini.mini_corpus(seed, 0.05) for seed in (0, 1)]
    assert [each.name for each in plans[0].speakers] != [
        each.name for each in plans[1].speakers
    ]
    speaker = plans[0].speakers[0]
    texts = [each.text for each in mini.make_utterances(speaker)]
    path = speaker.directory(corpus) / "1" / f"{speaker.speaker}-1.trans.txt"
    lines = path.read_text().splitlines()
    assert texts == [line.split(" ", 1)[1] for line in lines]
    other = [each.text for each in mini.make_utterances(plans[1].speakers[0])]
    assert other != texts


def die(speaker: Speaker) -> Iterator[Utterance]:
    """End the process as a crash in a C library does."""
    os._exit(1)


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "PATIENCE_SECONDS", 3.0)
    speaker = Speaker("dev", 7, "F", "nobody", 1)
    corpus = Corpus("fatal", "nothing", {}, [speaker], die, 8000)
    with pytest.raises(CorpusError, match="no speaker was finished within 3 s"):
        build.build(corpus, tmp_path / "new", 1, quiet=True)
    assert not list((tmp_path / "new").glob(".fatal*"))


def test_settings_of_many_speakers_are_told_in_short(tmp_path: Path) -> None:
    def corpus(label: str) -> Corpus:
        speakers = {"train": [f"{label}{number}" for number in range(200)]}
        settings = {"speakers": speakers, "seed": 0}
        return Corpus("words", "Words.", settings, [], list, 16000)

    root = tmp_path / "out"
    (root / build.PARTIAL).mkdir(parents=True)
    settings = json.dumps(corpus("a").settings)
    (root / build.PARTIAL / "settings.json").write_text(settings)
    with pytest.raises(CorpusError, match="settings .speakers {'train'") as error:
        build.build(corpus("b"), root, jobs=1)
    assert len(str(error.value)) < 400 + len(str(root))
