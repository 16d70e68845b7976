"""The embedded corpus as its command writes it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_softpl.bin.make_mini_corpus import main
from espnet_softpl.commands.corpus import mini
from tests.support.corpora import MARKER, SCALE


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus, built one speaker after the other."""
    out = tmp_path_factory.mktemp("mini") / "corpus"
    assert main(["--out", str(out), "--scale", SCALE, "--jobs", "1", "--quiet"]) == 0
    return out


@pytest.mark.slow
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


@pytest.mark.slow
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
