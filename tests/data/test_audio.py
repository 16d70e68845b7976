"""Entries of wav.scp and feats.scp: files, channels, places in archives."""

from __future__ import annotations

import struct
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile

from espnet_softpl.data import audio, tables
from espnet_softpl.data.audio import (
    READ_ERRORS,
    Header,
    files_of,
    guess_kind,
    open_audio,
    read_header,
)
from tests import ROOT
from tests.support.audio_forms import (
    CAT,
    RATE,
    noise,
    read_entries,
    write_archive,
)

RECIPE = ROOT / "egs2" / "librispeech_softpl"


@pytest.mark.parametrize("form", ["flac", "wav", "kaldi"])
def test_audio_in_archives(tmp_path: Path, form: str) -> None:
    entries = read_entries(write_archive(tmp_path / "a", form, seed=1))
    for number, value in enumerate(entries.values()):
        header = read_header(value, "kaldi_ark")
        rate, loaded = kaldiio.load_mat(value)
        assert header == Header(len(loaded), (), rate, form == "kaldi")
        with open_audio(value, "kaldi_ark") as files:
            samples = files[0].read()
        np.testing.assert_allclose(samples, noise(1 + number), atol=1e-4)


@pytest.mark.parametrize("method", [None, 1, 2, 3, 5, 7])
def test_headers_of_features(tmp_path: Path, method: int | None) -> None:
    data = {"a": noise(1)[:240].reshape(12, 20), "b": noise(2)[:60].reshape(3, 20)}
    scp, ark = str(tmp_path / "f.scp"), str(tmp_path / "f.ark")
    kaldiio.save_ark(ark, data, scp=scp, compression_method=method)
    for key, value in tables.read_scp(scp).items():
        assert read_header(value, "kaldi_ark") == Header(len(data[key]), (20,), None)
        part = read_header(f"{value}[1:2]", "kaldi_ark")
        assert part == Header(2, (20,), None)
        with pytest.raises(ValueError, match="such as features"):
            with open_audio(value, "kaldi_ark"):
                pass


def test_other_arrays_in_archives(tmp_path: Path) -> None:
    forms = {
        "double": dict(data=np.zeros((4, 3))),
        "vector": dict(data=np.zeros(5, np.float32)),
        "doubles": dict(data=np.zeros(6)),
        "text": dict(data=np.ones((2, 3), np.float32), text=True),
        "numpy": dict(data=np.zeros((7, 2)), write_function="numpy"),
    }
    for name, more in forms.items():
        data = more.pop("data")
        scp = str(tmp_path / f"{name}.scp")
        kaldiio.save_ark(str(tmp_path / f"{name}.ark"), {"a": data}, scp=scp, **more)
        header = read_header(tables.read_scp(scp)["a"], "kaldi_ark")
        assert (header.length, *header.shape) == data.shape, name


def test_a_pickle_in_an_archive_is_never_loaded(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "hacked",))

    scp, ark = str(tmp_path / "p.scp"), str(tmp_path / "p.ark")
    kaldiio.save_ark(ark, {"a": Trap()}, scp=scp, write_function="pickle")
    with pytest.raises(ValueError, match="pickle, which is never loaded"):
        read_header(tables.read_scp(scp)["a"], "kaldi_ark")
    assert not (tmp_path / "hacked").exists()


def test_entries_that_are_no_audio(tmp_path: Path) -> None:
    entries = read_entries(write_archive(tmp_path / "a", "flac", seed=1))
    first = next(iter(entries.values()))
    (tmp_path / "torn.ark").write_bytes(b"AUDIO\x02\xff\xff" + b"fLaC" + bytes(9))
    float_wav = tmp_path / "float.wav"
    soundfile.write(float_wav, noise(1), RATE, subtype="FLOAT")
    bad = {
        f"{first}[0:9]": "file 'segments'",
        f"{tmp_path}/torn.ark:0": "",
        f"{tmp_path}/no.ark:7": "no.ark does not exist",
        f"{first.rpartition(':')[0]}:3": "",
        f"{first.rpartition(':')[0]}:99999999": "",
        f"cat {float_wav} |": "a command",
        str(float_wav): "WAV of 16 bits, not FLOAT",
    }
    for value, message in bad.items():
        with pytest.raises(READ_ERRORS, match=message or None):
            read_header(value, "kaldi_ark")


def test_columns_are_channels(tmp_path: Path) -> None:
    left, right, short = (tmp_path / f"{name}.wav" for name in ("l", "r", "s"))
    for seed, path in enumerate((left, right)):
        soundfile.write(path, noise(seed), RATE)
    soundfile.write(short, noise(3, 0.3), RATE)
    one = read_header(str(left), "multi_columns_sound")
    assert one == read_header(str(left), "sound") == Header(9600, (), RATE)
    both = read_header(f"{left} {right}", "multi_columns_sound")
    assert both == Header(9600, (2,), RATE)
    with pytest.raises(ValueError, match="4800 samples at 16000 Hz, and .* 9600"):
        read_header(f"{left} {short}", "multi_columns_sound")


def test_kinds_are_guessed() -> None:
    guesses = {
        "a/b c/d.wav": "multi_columns_sound",
        "a.wav": "sound",
        "a.ark:12": "kaldi_ark",
        "a.ark": "kaldi_ark",
        "a.ark:12[0:9]": "kaldi_ark",
        "wav.1:77": "kaldi_ark",
    }
    assert {value: guess_kind(value) for value in guesses} == guesses


def test_a_single_number_is_no_audio(tmp_path: Path) -> None:
    scp, ark = str(tmp_path / "n.scp"), str(tmp_path / "n.ark")
    number = {"a": np.array(3.0)}
    kaldiio.save_ark(ark, number, scp=scp, write_function="numpy")
    with pytest.raises(READ_ERRORS):
        read_header(tables.read_scp(scp)["a"], "kaldi_ark")


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_wav_of_a_stream_in_an_archive(tmp_path: Path, size: int) -> None:
    """Its header does not tell the size: the program that wrote it did not know."""
    path = tmp_path / "a.wav"
    soundfile.write(path, noise(1), RATE)
    wav = bytearray(path.read_bytes())
    wav[4:8] = struct.pack("<I", size)
    (tmp_path / "a.ark").write_bytes(b"a " + wav)
    with open_audio(f"{tmp_path}/a.ark:2", "kaldi_ark") as files:
        np.testing.assert_allclose(files[0].read(), noise(1), atol=1e-4)


def test_the_files_of_an_entry() -> None:
    assert files_of("a b.wav", "sound") == ["a b.wav"]
    assert files_of("a.wav b.wav", "multi_columns_sound") == ["a.wav", "b.wav"]
    assert files_of("a:b.ark:12[0:9]", "kaldi_ark") == ["a:b.ark"]
    assert files_of("a.ark", "kaldi_ark") == ["a.ark"]


def test_a_shell_runs_commands(tmp_path: Path) -> None:
    odd = tmp_path / "two words; touch hacked"
    odd.write_bytes(b"abc")
    assert audio.run_pipe(f"{CAT} '{odd}' |") == b"abc"
    assert audio.run_pipe(f"{CAT} '{odd}' | tail -c 2 | head -c 1 |") == b"b"
    assert audio.run_pipe(f"FILE='{odd}'; cat < \"$FILE\" 2> /dev/null |") == b"abc"
    # The first program is stopped by the second, which is no failure.
    big = "head -c 9000000 /dev/zero | head -c 5 |"
    assert audio.run_pipe(big) == bytes(5)
    assert not Path("hacked").exists()


def test_a_command_has_no_input() -> None:
    """It would wait for ever for what nobody types."""
    assert audio.run_pipe("cat |") == b""


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended with status 1: .*No such file"):
        audio.run_pipe(f"tail {tmp_path}/gone |")
    with pytest.raises(RuntimeError, match="ended with status 1: .*No such file"):
        audio.run_pipe(f"tail {tmp_path}/gone | tail |")
    with pytest.raises(RuntimeError, match="ended with status 127: .*no_such_program"):
        audio.run_pipe("no_such_program | tail |")
    with pytest.raises(RuntimeError, match="ended with status 2: .*quote|matching"):
        audio.run_pipe("cat 'a.wav |")


@pytest.mark.parametrize("value", ["cat a.wav", "|", " | ", "| cat a.wav"])
def test_what_is_no_command_is_refused(value: str) -> None:
    with pytest.raises(ValueError, match="no command that ends in"):
        audio.run_pipe(value)


def test_commands_are_told_from_files() -> None:
    assert audio.is_command("cat a.wav | ") and audio.is_command("| cat")
    assert not audio.is_command("a|b.wav")


def test_copies_are_read_as_the_file() -> None:
    copies = {
        "cat a.wav |": "a.wav",
        "wav-copy a.ark:12 - |": "a.ark:12",
        " kaldi/featbin/wav-copy a.ark:12 -|": "a.ark:12",
        "cat a.wav b.wav |": None,
        "cat a*.wav |": None,
        "cat 'a b.wav' |": None,
        "wav-copy a.wav b.wav |": None,
        "sox a.wav -t wav - |": None,
    }
    assert {value: audio.copied_file(value) for value in copies} == copies
