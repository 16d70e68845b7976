"""The embedded corpus: layout, voices, conditions, determinism, restarts, errors."""

import fcntl
import importlib.util
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_softpl.bin import make_mini_corpus
from espnet_softpl.bin.make_mini_corpus import main
from espnet_softpl.commands.corpus import acoustics, espeak, mini
from espnet_softpl.commands.corpus.librispeech import (
    CorpusError,
    Speaker,
    Utterance,
    to_int16,
    write_speaker,
)
from espnet_softpl.commands.corpus.progress import Progress

SCALE = "0.05"
MARKER = ".mini_corpus.json"


def tree(root: Path) -> dict[str, bytes]:
    """Returns every file below a directory with its contents."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def command(out: Path, *options: str) -> list[str]:
    """Returns the command line of a small build."""
    module = "espnet_softpl.bin.make_mini_corpus"
    return [sys.executable, "-m", module, "--out", str(out), "--scale", SCALE, *options]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus, built one speaker after the other."""
    out = tmp_path_factory.mktemp("mini") / "corpus"
    assert main(["--out", str(out), "--scale", SCALE, "--jobs", "1", "--quiet"]) == 0
    return out


def test_layout_is_librispeech(corpus: Path) -> None:
    names = {path.name for path in corpus.iterdir()}
    assert names == {*mini.SETS, "SPEAKERS.TXT", MARKER}
    audio = sorted(path.relative_to(corpus) for path in corpus.rglob("*.flac"))
    spoken = set()
    for transcript in corpus.rglob("*.trans.txt"):
        speaker, chapter = transcript.parts[-3:-1]
        assert transcript.name == f"{speaker}-{chapter}.trans.txt"
        for index, line in enumerate(transcript.read_text().splitlines()):
            name, text = line.split(" ", 1)
            assert name == f"{speaker}-{chapter}-{index:04d}"
            assert re.fullmatch(r"[A-Z']+( [A-Z']+)+", text)
            spoken.add((transcript.parent / f"{name}.flac").relative_to(corpus))
    assert len(audio) == 6 + 4 * 12 + 8 + 8
    assert set(audio) == spoken


def test_audio_is_speech_of_sensible_length_and_level(corpus: Path) -> None:
    for path in corpus.rglob("*.flac"):
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16000, 1, "PCM_16")
        assert 1.0 < info.duration < 4.5
        samples, _ = soundfile.read(path)
        assert 0.02 < np.abs(samples).max() < 0.96
        frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
        energy = np.sqrt(np.mean(frames**2, axis=1))
        loud, soft = np.quantile(energy, 0.95), np.quantile(energy, 0.03)
        assert 2 < loud / soft < 200  # the noisiest are at 6 dB


def test_speakers_txt_lists_every_speaker(corpus: Path) -> None:
    lines = (corpus / "SPEAKERS.TXT").read_text().splitlines()
    rows = [
        [cell.strip() for cell in line.split("|")] for line in lines if line[0] != ";"
    ]
    assert lines[0].startswith(";")
    directories = {path.parts[-2:] for path in corpus.glob("*/*") if path.is_dir()}
    assert {(row[2], row[0]) for row in rows} == directories
    for number, sex, set_name, minutes, name in rows:
        files = (corpus / set_name / number).rglob("*.flac")
        seconds = sum(soundfile.info(path).duration for path in files)
        assert number.isdigit() and sex in {"F", "M"} and name
        assert float(minutes) == pytest.approx(seconds / 60, abs=0.006)


def test_build_does_not_depend_on_jobs_or_process(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    result = subprocess.run(
        command(out, "--jobs", "3"), capture_output=True, text=True, check=True
    )
    assert tree(out) == tree(corpus)
    assert 1 <= len(result.stderr.splitlines()) <= 5
    assert "100 %" in result.stderr


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


def test_interruption_is_reported_without_traceback(tmp_path: Path) -> None:
    out = tmp_path / "interrupted"
    process = subprocess.Popen(
        command(out, "--scale", "1"), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("t*/*/1")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130
    assert "run it again" in error and "Traceback" not in error


def test_second_run_changes_nothing_and_is_fast(corpus: Path) -> None:
    def times() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}

    before = times()
    start = time.monotonic()
    assert main(["--out", str(corpus), "--scale", SCALE]) == 0
    assert time.monotonic() - start < 1
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


@pytest.mark.parametrize(
    "options",
    [
        ("--scale", "0"),
        ("--scale", "11"),
        ("--scale", "nan"),
        ("--seed", "-1"),
        ("--jobs", "0"),
        ("--unknown",),
    ],
)
def test_illegal_options_are_refused(
    tmp_path: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--out", str(tmp_path / "new"), *options])
    assert caught.value.code == 2
    assert options[0].strip("-") in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_missing_synthesizer_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["--out", str(tmp_path / "new")]) == 1
    assert "pip install 'espnet_softpl[mini]'" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_failing_speaker_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = mini.mini_corpus(0, 0.05)
    broken = mini.MiniSpeaker(**{**vars(plan.speakers[-1]), "voice": "xx-none+f3"})
    speakers = [*plan.speakers[:1], broken]
    fake = type(plan)(**{**vars(plan), "speakers": speakers})
    monkeypatch.setattr(make_mini_corpus, "_plan", lambda options: fake)
    assert main(["--out", str(tmp_path / "new"), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "speaker 4001 of test" in error and "voice xx-none+f3" in error
    assert not (tmp_path / "new" / "test" / "4001").exists()


def test_every_voice_exists_and_refusals_are_noticed() -> None:
    with espeak.Synthesizer() as synthesizer:
        for each in mini.mini_corpus(0, 1.0).speakers:
            synthesizer.set_voice(each.voice, each.rate, each.pitch, each.pitch_range)
        with pytest.raises(CorpusError, match="xx-none"):
            synthesizer.set_voice("xx-none+f3", 170, 50, 50)
        with pytest.raises(CorpusError, match="silence"):
            synthesizer.speak(" ", seed=1)


def test_long_installation_path_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(espeak, "_MAX_DATA_PATH", 1)
    with espeak.Synthesizer() as synthesizer:
        synthesizer.set_voice("en-us+f3", 170, 50, 50)
        assert len(synthesizer.speak("hello", seed=1)) > 0.2 * espeak.SYNTHESIS_RATE
        link = Path(synthesizer._link.name)
        assert link.is_dir()
    assert not link.exists()


def test_no_voice_is_in_two_sets() -> None:
    """Neither the same nor nearly the same, by the definitions that eSpeak NG reads."""
    import espeakng_loader

    voices = Path(espeakng_loader.get_data_path()) / "voices" / "!v"

    def definition(variant: str) -> set[str]:
        lines = (voices / variant).read_text("utf-8", errors="replace").splitlines()
        bare = (re.split("//|#", line)[0] for line in lines)
        stripped = (" ".join(line.split()) for line in bare)
        ignored = ("name", "language", "gender", "variant")
        return {line for line in stripped if line and not line.startswith(ignored)}

    for first, second in itertools.combinations(mini.SETS.values(), 2):
        for one, other in itertools.product(first.variants, second.variants):
            assert one != other
            ours, theirs = definition(one), definition(other)
            assert len(ours & theirs) < 0.5 * len(ours | theirs), (one, other)


def test_plan_has_many_unseen_voices() -> None:
    speakers = mini.mini_corpus(0, 1.0).speakers
    assert len({each.speaker for each in speakers}) == len(speakers)
    for name, count, accents in (
        ("train-labeled", 4, 2),
        ("train-unlabeled", 80, 8),
        ("dev", 12, 8),
        ("test", 12, 8),
    ):
        voices = [each.voice for each in speakers if each.set_name == name]
        assert len(voices) == len(set(voices)) == count
        assert len({voice.split("+")[0] for voice in voices}) == accents
        assert sum(each.utterances for each in speakers if each.set_name == name) > 120
    larger = mini.mini_corpus(0, mini.MAX_SCALE).speakers
    assert len({each.speaker for each in larger}) == len(larger) == 1080


def test_sentences_cover_all_letters_and_seldom_repeat() -> None:
    draw = np.random.default_rng(0)
    sentences = [mini.make_sentence(draw) for _ in range(1000)]
    words = {word for sentence in sentences for word in sentence.split()}
    assert len(words) == 42
    assert set("".join(words)) == set("abcdefghijklmnopqrstuvwxyz'")
    assert sum(bool(re.search(r"(.)\1", word)) for word in words) >= 10
    assert len(set(sentences)) > 900


def test_recording_has_the_asked_level_and_noise() -> None:
    conditions = acoustics.Conditions(
        room_share=0.0,
        reverberation_seconds=(0.1, 0.1),
        direct_to_room_db=(5.0, 5.0),
        tilt=(0.0, 0.0),
        snr_db=(20.0, 20.0),
        noise_color=(0.0, 0.0),
        level_db=(-26.0, -26.0),
        silence_seconds=(0.5, 0.5),
    )
    speech = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    samples = acoustics.record(speech, 16000, conditions, np.random.default_rng(0))
    signal = samples / 32767
    assert len(signal) == 8000 + 16000 + 8000
    middle, edge = np.std(signal[8000:24000]), np.std(signal[:8000])
    assert 20 * np.log10(middle) == pytest.approx(-26, abs=0.2)
    assert 20 * np.log10(middle / edge) == pytest.approx(20, abs=0.5)


def test_room_response_has_the_asked_energy_and_decay() -> None:
    response = acoustics.room_response(16000, 0.3, 5.0, np.random.default_rng(0))
    assert response[0] == 1
    tail = response[1:]
    assert 10 * np.log10(np.sum(tail**2)) == pytest.approx(-5)
    start, end = np.std(tail[:480]), np.std(tail[-480:])
    assert 20 * np.log10(start / end) == pytest.approx(54, abs=3)


def test_colored_noise_falls_with_frequency() -> None:
    noise = acoustics.colored_noise(65536, 1.0, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(noise)) ** 2
    low, high = power[1000:2000].mean(), power[8000:16000].mean()
    assert np.mean(noise**2) == pytest.approx(1)
    assert 10 * np.log10(low / high) == pytest.approx(9, abs=1)


def test_to_int16_turns_down_only_what_would_clip() -> None:
    assert to_int16(np.array([0.5, -0.25])).tolist() == [16384, -8192]
    assert np.abs(to_int16(np.array([4.0, -2.0]))).tolist() == [31129, 15564]


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
    speaker = Speaker("dev", 7, "F", "nobody", 1)
    with pytest.raises(ValueError, match="7-1-0000"):
        write_speaker(
            tmp_path, tmp_path / "part", speaker, [Utterance(text, samples)], 8000
        )
    assert not (tmp_path / "dev").exists()


def test_speaker_finished_by_another_process_is_kept(tmp_path: Path) -> None:
    speaker = Speaker("dev", 7, "F", "nobody", 1)
    utterances = [Utterance("HELLO", np.ones(9, np.int16))]
    for _ in range(2):
        write_speaker(tmp_path, tmp_path / "part", speaker, utterances, 8000)
    assert sorted(tree(tmp_path)) == ["dev/7/1/7-1-0000.flac", "dev/7/1/7-1.trans.txt"]
    assert not list((tmp_path / "part").iterdir())


def test_progress_rewrites_one_line_on_a_terminal_and_is_brief_in_a_log() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, log, nothing = Terminal(), io.StringIO(), io.StringIO()
    for stream in (terminal, log):
        progress = Progress("work", 40, "pieces", stream=stream)
        for _ in range(40):
            progress.advance()
    Progress("work", 1, "pieces", quiet=True, stream=nothing).advance()
    assert terminal.getvalue().count("\r") == 40
    assert terminal.getvalue().count("\n") == 1
    assert "\rwork: 10/40 pieces (25 %), 0:00 left" in terminal.getvalue()
    assert len(log.getvalue().splitlines()) == 4
    assert log.getvalue().endswith("work: 40/40 pieces (100 %), in 0:00\n")
    assert nothing.getvalue() == ""


def test_marker_tells_the_settings_and_sizes(corpus: Path) -> None:
    marker = json.loads((corpus / MARKER).read_text())
    assert marker["settings"]["seed"] == 0 and marker["settings"]["scale"] == 0.05
    assert list(marker["sets"]) == sorted(mini.SETS)
    assert marker["sets"]["train-unlabeled"]["utterances"] == 48
    assert marker["sets"]["train-unlabeled"]["speakers"] == 4


def test_needs_neither_torch_nor_espnet() -> None:
    code = (
        "import sys\n"
        "import espnet_softpl.bin.make_mini_corpus\n"
        "import espnet_softpl.bin.make_digits_corpus\n"
        "import espnet_softpl.commands.corpus.acoustics\n"
        "heavy = {'torch', 'torchaudio', 'espnet', 'espnet2'} & sys.modules.keys()\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
