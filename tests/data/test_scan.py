"""Bad data are refused before training, with what is wrong and where."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_softpl.core.errors import UserError
from espnet_softpl.data import scan as data_scan
from espnet_softpl.data import tables
from espnet_softpl.data.audio import Header
from espnet_softpl.data.scan import find_defect
from tests.support.audio_forms import (
    RATE,
    read_entries,
    write_archive,
    write_features,
    write_lines,
    write_pipes,
    write_plain,
)


def write_wavs(directory, names, rate=16000, seconds=0.2) -> dict[str, str]:
    directory.mkdir(exist_ok=True)
    for name in names:
        samples = np.zeros(int(rate * seconds), dtype=np.float32)
        soundfile.write(directory / f"{name}.wav", samples, rate)
    return {name: str(directory / f"{name}.wav") for name in names}


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
    second, third = {"a": "9.wav", "z": "2.wav"}, {"y": "3.wav", "b": "8.wav"}
    found = data_scan.shared_utterances(first, second, third, {})
    assert found == [{"a", "b"}, {"b", "c"}, set()]


def test_sample_rates_must_agree(tmp_path) -> None:
    narrow = write_wavs(tmp_path / "narrow", ["a"], rate=8000)
    wide = write_wavs(tmp_path / "wide", ["b", "c"])
    data_scan.check_sample_rates({"unlabeled": wide, "labeled": {}})
    with pytest.raises(ValueError, match="8000 Hz.*16000 Hz|16000 Hz.*8000 Hz"):
        data_scan.check_sample_rates({"unlabeled": wide, "labeled": narrow})


def test_threads_keep_the_order(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(data_scan, "THREADS", 2)
    monkeypatch.setattr(data_scan, "PER_THREAD", 1)
    entries = {}
    for number in range(20):
        seconds = 0.0 if number % 7 == 3 else 0.01 * (number + 1)
        entries |= write_wavs(tmp_path / "wav", [f"u{number}"], seconds=seconds)
    scan = data_scan.scan_audio(entries)
    assert list(scan.bad) == ["u3", "u10", "u17"]
    assert list(scan.samples) == [key for key in entries if key not in scan.bad]
    assert all(
        samples == 160 * (int(key[1:]) + 1) for key, samples in scan.samples.items()
    )


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
    assert f" {tmp_path}/gone.wav does not exist" in str(error.value)
    assert ".," not in str(error.value)  # Nor libsndfile's "System error."


def spec(path: Path, kind: str) -> list[tuple[str, str, str]]:
    return [(str(path), "speech", kind)]


def test_commands_are_refused_for_training(tmp_path: Path) -> None:
    source = write_pipes(tmp_path / "pipes", seed=1)
    for kind in ("sound", "kaldi_ark"):
        with pytest.raises(UserError) as refused:
            data_scan.speech_scp(spec(source / "wav.scp", kind), "unlabeled_data")
        message = str(refused.value)
        assert "3 utterances are read from commands (pipes-0: " in message
        assert "format_audio" in message and "--allow_pipes true" in message


def test_lengths_of_every_type(tmp_path: Path) -> None:
    forms = {
        "sound": write_plain(tmp_path / "plain", 3, seed=1),
        "multi_columns_sound": tmp_path / "plain",
        "kaldi_ark": write_archive(tmp_path / "ark", "flac", seed=1),
    }
    for kind, directory in forms.items():
        scan = data_scan.scan_audio(read_entries(directory), kind)
        assert not scan.bad and set(scan.samples.values()) == {9600}
    scp = write_features(tmp_path / "feats.scp", ["a", "b"], 20, seed=1)
    scan = data_scan.scan_audio(tables.read_scp(scp), "kaldi_ark", input_size=20)
    assert not scan.bad and all(60 <= n < 100 for n in scan.samples.values())


def test_what_does_not_fit_says_what_would(tmp_path: Path) -> None:
    archive = read_entries(write_archive(tmp_path / "ark", "flac", seed=1))
    stereo = read_entries(write_plain(tmp_path / "two", 1, seed=1, channels=2))
    scp = write_features(tmp_path / "feats.scp", ["a"], 20, seed=1)
    features = tables.read_scp(scp)
    cases = [
        (archive, "sound", None, "needs the type kaldi_ark, not sound"),
        (stereo, "sound", None, "2 channels, .* must have one.*format_audio"),
        (features, "kaldi_ark", None, "features of dimension 20, .* takes audio"),
        (features, "kaldi_ark", 80, r"\d\d, 20\), .* takes features of dimension 80"),
        (archive, "kaldi_ark", 80, "audio, but the model takes features"),
    ]
    for entries, kind, input_size, message in cases:
        scan = data_scan.scan_audio(entries, kind, input_size)
        assert not scan.samples
        assert re.search(message, next(iter(scan.bad.values()))), scan.bad


def test_rates_and_levels_must_agree_in_archives_too(tmp_path: Path) -> None:
    plain = read_entries(write_plain(tmp_path / "plain", 1, seed=1))
    slow = read_entries(write_plain(tmp_path / "slow", 1, seed=1, rate=8000))
    flac = read_entries(write_archive(tmp_path / "flac", "flac", seed=1))
    kaldi = read_entries(write_archive(tmp_path / "kaldi", "kaldi", seed=1))
    kinds = {"unlabeled": "kaldi_ark"}
    data_scan.check_sample_rates({"unlabeled": flac, "labeled": plain}, kinds)
    with pytest.raises(UserError, match="sample rates differ"):
        data_scan.check_sample_rates({"unlabeled": flac, "labeled": slow}, kinds)
    with pytest.raises(UserError, match="levels differ: ESPnet reads .*kaldi.ark"):
        data_scan.check_sample_rates({"unlabeled": kaldi, "labeled": plain}, kinds)
    both = {"unlabeled": "kaldi_ark", "labeled": "kaldi_ark"}
    data_scan.check_sample_rates({"unlabeled": kaldi, "labeled": kaldi}, both)


def test_find_defect() -> None:
    audio = np.ones(10, dtype=np.float32)
    assert find_defect(audio, 10) is None and find_defect(audio, 11) is not None
    assert find_defect(np.ones((10, 3)), 1) is None
    assert find_defect(np.ones((10, 3)), 1, (3,)) is None
    assert find_defect(np.ones((10, 3)), 1, ()) is not None
    assert find_defect(audio, 1, (1,)) is not None
    assert find_defect(np.arange(5, dtype=np.int16), 1) is None
    # The largest numbers of half precision overflow when they are summed.
    assert find_defect(np.full(9, 65504, dtype=np.float16), 1) is None


def test_lengths_that_are_known_save_reading(tmp_path: Path) -> None:
    scp = write_features(tmp_path / "feats.scp", ["a", "b"], 20, seed=1)
    write_lines(tmp_path / "feats_shape", {"a": "7,20", "b": "8,20", "more": "9,20"})
    assert data_scan.lengths_beside(scp) == tmp_path / "feats_shape"
    assert data_scan.lengths_beside(tmp_path / "wav.scp") is None
    assert data_scan.lengths_beside(tmp_path / "other.scp") is None
    known = tables.read_lengths(tmp_path / "feats_shape")
    entries = tables.read_scp(scp)
    scan = data_scan.scan_audio(entries, "kaldi_ark", 20, known)
    assert scan == ({"a": 7, "b": 8}, {})
    # Neither a part of the lengths nor features of another dimension are believed.
    read = data_scan.scan_audio(entries, "kaldi_ark", 20, {"a": 7})
    assert not read.bad and min(read.samples.values()) >= 60
    assert set(data_scan.scan_audio(entries, "kaldi_ark", 80, known).bad) == {"a", "b"}


def test_what_a_model_cannot_take() -> None:
    plain = Header(100, (), RATE)
    assert data_scan.find_misfit(plain) is None
    assert data_scan.find_misfit(plain, rate=RATE) is None
    assert data_scan.find_misfit(Header(100, (), None)) is None
    assert data_scan.find_misfit(Header(100, (80,), None), input_size=80) is None
    for header, words in (
        (plain._replace(length=0), "no samples by its header"),
        (plain._replace(length=2**63 - 1), f"{2**63 - 1} samples by its header"),
        (plain._replace(rate=8000), "8000 Hz, but the model takes 16000 Hz"),
        (plain._replace(integers=True), "as integers and cannot train on"),
        (plain._replace(shape=(2,)), "2 channels"),
        (plain._replace(rate=None), "features, but the model takes audio"),
    ):
        assert words in str(data_scan.find_misfit(header, rate=RATE))
