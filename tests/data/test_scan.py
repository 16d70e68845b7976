"""Bad data are refused before training, with what is wrong and where."""

import re

import numpy as np
import pytest
import soundfile

from espnet_softpl.core import errors
from espnet_softpl.data import scan as data_scan
from espnet_softpl.data import tables


def write_wavs(directory, names, rate=16000, seconds=0.2) -> dict[str, str]:
    directory.mkdir(exist_ok=True)
    for name in names:
        samples = np.zeros(int(rate * seconds), dtype=np.float32)
        soundfile.write(directory / f"{name}.wav", samples, rate)
    return {name: str(directory / f"{name}.wav") for name in names}


def test_read_scp(tmp_path) -> None:
    path = tmp_path / "wav.scp"
    path.write_text("a x y.wav\nb z.wav\n")
    assert tables.read_scp(path) == {"a": "x y.wav", "b": "z.wav"}
    bad = {
        "a\n": "wav.scp:1: not",
        "a x\na y\n": "wav.scp:2: a occurs twice",
        "a x\n\nb y\n": "wav.scp:2: the line is empty",
    }
    for content, message in bad.items():
        path.write_text(content)
        with pytest.raises(errors.UserError, match=message):
            tables.read_scp(path)
    path.write_text("a\nb  two  words \n")
    assert tables.read_scp(path, empty=True) == {"a": "", "b": "two  words"}
    path.write_bytes(b"a \xff\n")
    with pytest.raises(errors.UserError, match="not UTF-8"):
        tables.read_scp(path)
    with pytest.raises(ValueError, match="does not exist"):
        tables.read_scp(tmp_path / "none")


def test_read_lengths(tmp_path) -> None:
    path = tmp_path / "speech_shape"
    path.write_text("a 1330,80\nb 7\n")
    assert tables.read_lengths(path) == {"a": 1330, "b": 7}
    path.write_text("a long\n")
    with pytest.raises(ValueError, match="not a shape file"):
        tables.read_lengths(path)


def test_speech_scp(tmp_path) -> None:
    path = tmp_path / "wav.scp"
    path.write_text("a a.wav\n")
    specs = [(str(path), "speech", "sound")]
    assert data_scan.speech_scp(specs, "data") == ({"a": "a.wav"}, "sound")
    with pytest.raises(ValueError, match="exactly one"):
        data_scan.speech_scp([], "data")
    path.write_text("")
    with pytest.raises(ValueError, match="empty"):
        data_scan.speech_scp(specs, "data")


def test_shared_utterances_by_id_and_by_audio() -> None:
    first = {"a": "1.wav", "b": "2.wav", "c": "3.wav"}
    second = {"a": "9.wav", "z": "2.wav"}
    assert data_scan.shared_utterances(first, second) == {"a", "b"}


def test_sample_rates_must_agree(tmp_path) -> None:
    narrow = write_wavs(tmp_path / "narrow", ["a"], rate=8000)
    wide = write_wavs(tmp_path / "wide", ["b", "c"])
    data_scan.check_sample_rates({"unlabeled": wide, "labeled": {}})
    with pytest.raises(ValueError, match="8000 Hz.*16000 Hz|16000 Hz.*8000 Hz"):
        data_scan.check_sample_rates({"unlabeled": wide, "labeled": narrow})


def test_scan_audio_names_what_it_cannot_read(tmp_path) -> None:
    entries = write_wavs(tmp_path / "wav", ["a", "b"])
    entries |= write_wavs(tmp_path / "wav", ["nothing"], seconds=0.0)
    (tmp_path / "noise.wav").write_text("this is not audio")
    entries |= {"x": str(tmp_path / "noise.wav"), "y": str(tmp_path / "gone.wav")}
    scan = data_scan.scan_audio(entries)
    assert scan.samples == {"a": 3200, "b": 3200}
    assert set(scan.bad) == {"x", "y", "nothing"}
    data_scan.check_bad_share(scan.bad, 300, 0.01, "cannot be read")
    with pytest.raises(ValueError, match=re.escape("3 of 5")) as error:
        data_scan.check_bad_share(scan.bad, 5, 0.01, "cannot be read")
    assert "gone.wav" in str(error.value)
