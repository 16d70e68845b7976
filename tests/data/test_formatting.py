"""Data of every form that users have: read as it is, or refused with what to do."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path

import kaldiio
import numpy as np
import pytest
import soundfile

from espnet_softpl.bin import format_audio
from espnet_softpl.core.errors import UserError
from espnet_softpl.data import pipes, tables
from espnet_softpl.data import scan as data_scan
from espnet_softpl.data.audio import (
    READ_ERRORS,
    Header,
    guess_kind,
    open_audio,
    read_header,
)
from espnet_softpl.data.formatting import format_directory
from espnet_softpl.data.kaldi_dir import Cut, read_recordings, read_segments
from tests import ROOT
from tests.support.audio_forms import (
    CAT,
    RATE,
    noise,
    write_archive,
    write_features,
    write_lines,
    write_pipes,
    write_plain,
    write_segments,
)

RECIPE = ROOT / "egs2" / "librispeech_softpl"


def read_entries(directory: Path) -> dict[str, str]:
    return tables.read_scp(directory / "wav.scp")


# Entries of wav.scp


@pytest.mark.parametrize("form", ["flac", "wav", "kaldi"])
def test_audio_in_archives(tmp_path: Path, form: str) -> None:
    entries = read_entries(write_archive(tmp_path / "a", form, seed=1))
    for number, value in enumerate(entries.values()):
        header = read_header(value, "kaldi_ark")
        rate, loaded = kaldiio.load_mat(value)
        assert header == Header(len(loaded), (), rate, form == "kaldi")
        with open_audio(value, "kaldi_ark") as files:
            audio = files[0].read()
        np.testing.assert_allclose(audio, noise(1 + number), atol=1e-4)


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
        f"{tmp_path}/no.ark:7": "No such file",
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


# Commands


def test_commands_run_without_a_shell(tmp_path: Path) -> None:
    odd = tmp_path / "two words; touch hacked"
    odd.write_bytes(b"abc")
    assert pipes.run_pipe(f"{CAT} '{odd}' |") == b"abc"
    assert pipes.run_pipe(f"{CAT} '{odd}' | tail -c 2 | head -c 1 |") == b"b"
    big = "head -c 9000000 /dev/zero | head -c 5 |"
    assert pipes.run_pipe(big) == bytes(5)
    assert not Path("hacked").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("cat a.wav > b.wav |", "'>' needs a shell"),
        ("cat a.wav; rm b.wav |", "';' needs a shell"),
        ("cat a.wav && rm b.wav |", "'&&' needs a shell"),
        ("cat a.wav || rm b.wav |", r"'\|\|' needs a shell"),
        ("(cat a.wav) |", r"'\(' needs a shell"),
        ("cat $HOME/a.wav |", r"'\$' needs a shell"),
        ("cat `pwd`/a.wav |", "'`' needs a shell"),
        ("cat a.wav | |", "no program before"),
        ("cat 'a.wav |", "No closing quotation"),
        ("cat a.wav", "does not end in"),
    ],
)
def test_what_needs_a_shell_is_refused(command: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipes.split_pipeline(command)


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"status \[1\].*No such file"):
        pipes.run_pipe(f"tail {tmp_path}/gone.wav |")
    with pytest.raises(RuntimeError, match=r"status \[1, 0\]"):
        pipes.run_pipe(f"tail {tmp_path}/gone.wav | tail |")
    with pytest.raises(OSError, match="no_such_program"):
        pipes.run_pipe("no_such_program | tail |")


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
    assert {value: pipes.copied_file(value) for value in copies} == copies


# Directories


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
    write_lines(source / "wav.scp", {"a": f"cat x; touch {tmp_path}/hacked |"})
    with pytest.raises(UserError, match="';' needs a shell"):
        format_directory(source, tmp_path / "out2", RATE, allow_pipes=True)
    assert not (tmp_path / "hacked").exists()


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
    with pytest.raises(UserError, match="a has no samples"):
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


def test_the_command_formats_a_directory(tmp_path: Path, capsys) -> None:
    source = write_plain(tmp_path / "in", ["A B", "C"], seed=1)
    options = ["--source", str(source), "--target", str(tmp_path / "out"), "--nj", "1"]
    assert format_audio.main([*options, "--fs", str(RATE)]) == 0
    assert "2 utterances" in capsys.readouterr().out
    assert read_entries(tmp_path / "out") == read_entries(source)  # In place.
    for more, message in (
        (["--fs", "8000"], "--resample true"),
        (["--fs", "0"], "at least 1"),
        (["--fs", "16000", "--max_bad_share", "2"], "0 to 1"),
        (["--fs", "16000", "--target", str(source)], "another directory"),
        (["--fs", "16000", "--source", str(tmp_path / "no")], "does not exist"),
    ):
        with pytest.raises(SystemExit) as ended:
            format_audio.main([*options, *more])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


# The recipe


def prepare(tmp_path: Path, *options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(RECIPE / "local" / "prepare_kaldi.py")]
    for part in ("labeled", "unlabeled", "dev", "test"):
        command += [f"--{part}", str(tmp_path / part)]
    command += ["--out", str(tmp_path / "out"), "--nj", "1", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_recipe_takes_every_form(tmp_path: Path) -> None:
    write_segments(tmp_path / "labeled", seed=100)
    words = {f"call{n}": "cafe\u0301  \u4f60\u597d" for n in ("1-1", "1-2", "2-1")}
    write_lines(tmp_path / "labeled" / "text", words)
    write_pipes(tmp_path / "unlabeled", seed=200)
    write_archive(tmp_path / "dev", "flac", seed=300)
    write_archive(tmp_path / "test", "kaldi", seed=400)
    for part in ("dev", "test"):
        names = read_entries(tmp_path / part)
        write_lines(tmp_path / part / "text", dict.fromkeys(names, "A"))
    refused = prepare(tmp_path)
    assert refused.returncode == 1 and "--allow_pipes true" in refused.stderr
    result = prepare(tmp_path, "--allow_pipes", "true")
    assert result.returncode == 0, result.stderr
    out = tmp_path / "out"
    for part in ("labeled", "unlabeled", "dev", "test"):
        files = read_entries(out / part)
        assert len(files) == 3
        assert all(soundfile.info(path).channels == 1 for path in files.values())
    texts = tables.read_scp(out / "labeled" / "text")
    assert set(texts.values()) == {"caf\u00e9 \u4f60\u597d"}


def test_one_recording_in_two_sets_is_found_by_its_parts(tmp_path: Path) -> None:
    for part in ("labeled", "dev", "test"):
        write_plain(tmp_path / part, ["A"], seed=ord(part[0]))
    write_segments(tmp_path / "unlabeled", seed=1)
    calls = write_segments(tmp_path / "other", seed=1)
    segments = (calls / "segments").read_text().replace("call1-1", "again")
    (tmp_path / "dev" / "segments").write_text(segments)
    (tmp_path / "dev" / "wav.scp").write_text((calls / "wav.scp").read_text())
    names = ("again", "call1-2", "call2-1")
    write_lines(tmp_path / "dev" / "text", dict.fromkeys(names, "A"))
    result = prepare(tmp_path)
    assert result.returncode == 1
    assert "3 utterances of the unlabeled set are also in the dev set" in result.stderr


def test_scores_of_a_script_without_spaces(tmp_path: Path) -> None:
    sys.path.insert(0, str(RECIPE / "local"))
    from espnet_softpl.commands import scoring

    hello = "\u4f60\u597d"
    refs, hyps = [f"{hello}\u5417", hello], [hello, hello]
    assert scoring.score(refs, hyps, "char").rate == pytest.approx(20.0)
    assert scoring.score(refs, hyps, "word").rate == pytest.approx(50.0)


def test_bpe_leaves_letters_as_they_are(tmp_path: Path) -> None:
    sys.path.insert(0, str(RECIPE / "local"))
    import train_bpe
    from espnet2.text.sentencepiece_tokenizer import SentencepiecesTokenizer

    # A ligature, a number in a circle, a Thai vowel: NFKC would change them.
    words = ["\ufb01\u03ac \u03b1\u03b2 \u2460", "\u03b1\u03b2 \u03ac \u0e33\u0e01"]
    texts = {f"u{i}": words[i % 2] for i in range(20)}
    text = write_lines(tmp_path / "text", texts)
    tokens, model = tmp_path / "tokens.txt", tmp_path / "bpe.model"
    train_bpe.train(text, tokens, model, 11)
    listed = tokens.read_text().splitlines()
    assert listed[0] == "<blank>" and "\ufb01" in "".join(listed)
    tokenizer = SentencepiecesTokenizer(str(model))
    for sentence in words:
        pieces = tokenizer.text2tokens(sentence)
        assert set(pieces) <= set(listed)
        assert tokenizer.tokens2text(pieces) == sentence


# Training directly, before any work


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
        (archive, "kaldi_ark", 80, "audio, where the model takes features"),
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
