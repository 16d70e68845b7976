"""Audio of every form becomes plain files, or is refused with what to do."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_softpl.core.errors import UserError
from espnet_softpl.data import tables
from espnet_softpl.data.audio import read_header
from espnet_softpl.data.formatting import (
    Cut,
    format_directory,
    read_recordings,
    read_segments,
)
from tests import ROOT
from tests.support.audio_forms import (
    CAT,
    RATE,
    noise,
    read_entries,
    write_archive,
    write_features,
    write_lines,
    write_pipes,
    write_segments,
)

RECIPE = ROOT / "egs2" / "librispeech_softpl"


def formatted(source: Path, target: Path, **more) -> dict[str, np.ndarray]:
    """Format a directory in this process; return audio by utterance."""
    format_directory(source, target, more.pop("rate", RATE), **more)
    audio = {key: soundfile.read(path) for key, path in read_entries(target).items()}
    rate = {rate for _, rate in audio.values()}
    assert len(rate) == 1 and all(x.ndim == 1 for x, _ in audio.values())
    lengths = tables.read_lengths(target / "utt2num_samples")
    assert lengths == {key: len(x) for key, (x, _) in audio.items()}
    return {key: x for key, (x, _) in audio.items()}


def test_segments_are_cut_out(tmp_path: Path) -> None:
    source = write_segments(tmp_path / "calls", seed=1)
    write_lines(source / "text", {"call1-1": "A", "call1-2": "B C", "call2-1": ""})
    audio = formatted(source, tmp_path / "out")
    first, second = noise(1, 2.0, channels=2), noise(2, 2.0, channels=2)
    expected = {
        "call1-1": first[4000:16000, 0],
        "call1-2": first[16000:].mean(axis=1),
        "call2-1": second[8000:, 1],  # Cut off: a quarter of a second too far.
    }
    assert audio.keys() == expected.keys()
    for key, samples in expected.items():
        np.testing.assert_allclose(audio[key], samples, atol=1e-4, err_msg=key)
    text = tables.read_scp(tmp_path / "out" / "text", empty=True)
    assert text == {"call1-1": "A", "call1-2": "B C", "call2-1": ""}


def test_segments_beyond_their_recording_are_bad(tmp_path: Path) -> None:
    source = write_segments(tmp_path / "calls", seed=1)
    with (source / "segments").open("a") as file:
        file.write("far call1 1.0 2.6\nout call1 2.5 -1\nno call2 0.0 1.0 2\n")
    with pytest.raises(UserError, match="3 of 6 files are unusable: far, no, out"):
        format_directory(source, tmp_path / "out", RATE)
    lines = format_directory(source, tmp_path / "out", RATE, max_bad_share=0.5)
    assert lines[0].startswith("warning: 3 of 6") and "3 utterances" in lines[1]
    reasons = tables.read_scp(tmp_path / "out" / "bad_audio")
    assert "1.0 to 2.6 s of a recording of 2.00 s" in reasons["far"]
    assert "channel 2 of 2" in reasons["no"]


@pytest.mark.parametrize("form", ["flac", "kaldi"])
def test_archives_become_files(tmp_path: Path, form: str) -> None:
    source = write_archive(tmp_path / "a", form, seed=5)
    audio = formatted(source, tmp_path / "out")
    for number in range(3):
        expected = noise(5 + number)
        np.testing.assert_allclose(audio[f"a-{number}"], expected, atol=1e-4)


def test_wav_copy_needs_neither_kaldi_nor_permission(tmp_path: Path) -> None:
    source = write_archive(tmp_path / "a", "kaldi", seed=5)
    entries = read_entries(source).items()
    write_lines(source / "wav.scp", {k: f"wav-copy {v} - |" for k, v in entries})
    assert len(formatted(source, tmp_path / "out")) == 3


def test_commands_run_only_with_permission(tmp_path: Path) -> None:
    source = write_pipes(tmp_path / "pipes", seed=9)
    with pytest.raises(UserError, match="2 entries are commands.*--allow_pipes true"):
        format_directory(source, tmp_path / "out", RATE)
    audio = formatted(source, tmp_path / "out", allow_pipes=True)
    for number in range(3):
        expected = noise(9 + number)
        np.testing.assert_allclose(audio[f"pipes-{number}"], expected, atol=1e-4)
    hack = {"a": f"cat x; touch {tmp_path}/hacked |"}
    write_lines(source / "wav.scp", hack)
    with pytest.raises(UserError, match="must not run programs unasked"):
        format_directory(source, tmp_path / "out2", RATE)
    assert not (tmp_path / "hacked").exists()
    write_lines(source / "wav.scp", {"a": "cat x_is_not_there | cat |"})
    with pytest.raises(UserError, match="a cannot be decoded: .* status 1: .*No such"):
        format_directory(source, tmp_path / "out2", RATE, allow_pipes=True)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0])
def test_wav_with_the_header_of_a_stream(tmp_path: Path, size: int) -> None:
    """As programs write it to a pipe, where they cannot go back to mend it."""
    path = tmp_path / "stream.wav"
    soundfile.write(path, noise(1), RATE)
    wav = bytearray(path.read_bytes())
    wav[4:8] = wav[40:44] = struct.pack("<I", size)
    path.write_bytes(wav)
    write_lines(tmp_path / "in" / "wav.scp", {"a": f"{CAT} {path} |"})
    if size:
        audio = formatted(tmp_path / "in", tmp_path / "out", allow_pipes=True)
        np.testing.assert_allclose(audio["a"], noise(1), atol=1e-4)
        return
    with pytest.raises(UserError, match="a is unusable: 0 samples"):
        format_directory(tmp_path / "in", tmp_path / "out", RATE, allow_pipes=True)


def test_columns_are_averaged_and_rates_converted(tmp_path: Path) -> None:
    tone = 0.4 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    soundfile.write(tmp_path / "a.wav", tone, 44100)
    soundfile.write(tmp_path / "b.wav", 0 * tone, 44100)
    both = f"{tmp_path}/a.wav {tmp_path}/b.wav"
    write_lines(tmp_path / "in" / "wav.scp", {"u": both})
    with pytest.raises(UserError, match="u has 44100 Hz.*--resample true"):
        format_directory(tmp_path / "in", tmp_path / "out", RATE)
    audio = formatted(tmp_path / "in", tmp_path / "out", resample=True)["u"]
    expected = 0.2 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    assert audio.shape == (RATE,)
    assert np.abs(audio - expected)[500:-500].max() < 0.01


def test_a_path_with_spaces_is_one_file(tmp_path: Path) -> None:
    path = tmp_path / "my file.wav"
    soundfile.write(path, noise(1), RATE)
    write_lines(tmp_path / "in" / "wav.scp", {"u": str(path)})
    (recording,) = read_recordings(tmp_path / "in")
    assert (recording.kind, recording.value) == ("sound", str(path))
    formatted(tmp_path / "in", tmp_path / "out")
    assert read_entries(tmp_path / "out") == {"u": str(path)}


def test_features_are_no_audio_for_the_recipe(tmp_path: Path) -> None:
    write_features(tmp_path / "in" / "wav.scp", ["a"], 20, seed=1)
    with pytest.raises(UserError, match="array of numbers, such as features"):
        format_directory(tmp_path / "in", tmp_path / "out", RATE)


def test_whole_numbers_that_were_stored_as_floats(tmp_path) -> None:
    """They would be clipped to a square wave; a little above 1 is clipped."""
    source = tmp_path / "in"
    source.mkdir()
    paths = {name: source / f"{name}.wav" for name in ("whole", "loud", "good")}
    for name, level in (("whole", 9000.0), ("loud", 1.3), ("good", 0.5)):
        audio = np.stack([level * np.cos(np.arange(800))] * 2, axis=1)
        soundfile.write(paths[name], audio, RATE, subtype="FLOAT")
    write_lines(source / "wav.scp", paths)
    (warning, _) = format_directory(source, tmp_path / "out", RATE, max_bad_share=0.5)
    assert "1 of 3 files are unusable: whole" in warning
    bad = tables.read_scp(tmp_path / "out" / "bad_audio")
    assert bad["whole"].startswith("is unusable: levels up to 9000, but -1 to 1 is")


def test_a_full_disk_is_not_blamed_on_the_audio(tmp_path, monkeypatch) -> None:
    source = write_segments(tmp_path / "calls", seed=1)

    def full(path, content) -> None:
        Path(path).touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    rest = tmp_path / "out" / "audio" / ".old.flac.tmp"
    rest.parent.mkdir(parents=True)
    rest.touch()  # What a killed run has left.
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left.*flac"):
        format_directory(source, tmp_path / "out", RATE)
    assert not list((tmp_path / "out" / "audio").iterdir())


def test_a_fifo_is_not_waited_for(tmp_path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for kind, value in (("sound", str(fifo)), ("kaldi_ark", f"{fifo}:3")):
        with pytest.raises(OSError, match="is no regular file"):
            read_header(value, kind)


def test_segments_are_read(tmp_path: Path) -> None:
    path = write_segments(tmp_path / "calls", 1) / "segments"
    cuts = read_segments(path, {"call1": "", "call2": ""})
    assert cuts["call1"] == [Cut("call1-1", 0.25, 1.0, 0), Cut("call1-2", 1.0)]
    assert cuts["call2"] == [Cut("call2-1", 0.5, 2.25, 1)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("call1 0", "'call1 0' is not .*: 3 columns"),
        ("call1 1.0 0.5", "the end is not after the start"),
        ("call1 -1 0.5", "not a time"),
        ("call1 0 nan", "not a time"),
        ("call1 zero 0.5", "could not convert"),
        ("call1 0 1 -1", "no channel"),
        ("call9 0 1", "recordings that wav.scp does not have: call9"),
    ],
)
def test_bad_segments_are_refused(tmp_path: Path, line: str, message: str) -> None:
    path = write_lines(tmp_path / "segments", {"u": line})
    with pytest.raises(UserError, match=message):
        read_segments(path, {"call1": "a.wav"})
