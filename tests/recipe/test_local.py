"""The recipe's own programs: data directories, audio, tokens, scores, tables."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests import ROOT
from tests.support import warm_python
from tests.support.report_pages import check_page

RECIPE = ROOT / "egs2" / "librispeech_softpl"
sys.path.insert(0, str(RECIPE / "local"))

import follow  # noqa: E402
import merge_decode  # noqa: E402
import split_keys  # noqa: E402
import train_bpe  # noqa: E402
from datadir import DataDir, RecipeError, read_table, write_table  # noqa: E402
from filter_utterances import filter_directory  # noqa: E402
from overlap import same_audio, separate  # noqa: E402
from prepare_librispeech import prepare, read_set, speakers_of  # noqa: E402

from espnet_softpl.commands import scoring  # noqa: E402
from espnet_softpl.commands.report.runs import read_history  # noqa: E402
from espnet_softpl.core.errors import UserError  # noqa: E402

RATE = 8000
SETS = {
    "labeled": ["train"],
    "unlabeled": ["extra"],
    "dev": ["dev"],
    "test": ["test"],
}


def noise(seed: int, seconds: float = 0.5, rate: int = RATE) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return 0.1 * generator.standard_normal(int(seconds * rate))


def write_set(
    root: Path, name: str, speakers: list[str], count: int = 2, text: bool = True
) -> None:
    """Write a set in LibriSpeech layout; every file has other audio."""
    for speaker in speakers:
        chapter = root / name / speaker / "1"
        chapter.mkdir(parents=True)
        lines = []
        for index in range(count):
            utterance = f"{speaker}-1-{index:04d}"
            seed = int.from_bytes(f"{name}{utterance}".encode(), "little") % 2**32
            soundfile.write(chapter / f"{utterance}.flac", noise(seed), RATE)
            lines.append(f"{utterance} HELLO  WORLD {'ABC'[index % 3]}\n")
        if text:
            (chapter / f"{speaker}-1.trans.txt").write_text("".join(lines))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Four sets with one or two speakers each."""
    root = tmp_path / "corpus"
    write_set(root, "train", ["10", "9"])
    write_set(root, "extra", ["20", "21"])
    write_set(root, "dev", ["30"])
    write_set(root, "test", ["40"])
    return root


def run_local(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [
        warm_python.executable(),
        str(RECIPE / "local" / name),
        *map(str, arguments),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def kaldi_dir(root: Path, name: str, first: int, text: bool = True) -> Path:
    """Write a Kaldi-style directory of two utterances with audio of its own."""
    directory = root / name
    directory.mkdir(parents=True)
    wav = {}
    for number in (first, first + 1):
        path = root / f"{name}{number}.wav"
        soundfile.write(path, noise(number), RATE)
        wav[f"{name}{number}"] = str(path)
    write_table(directory / "wav.scp", wav)
    if text:
        write_table(directory / "text", dict.fromkeys(wav, "A B"))
    return directory


# Data directories


def test_tables_are_read_back_sorted(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("b  two   words \na one\nc\n")
    assert read_table(path) == {"b": "two   words", "a": "one", "c": ""}
    write_table(path, read_table(path))
    assert path.read_text() == "a one\nb two   words\nc\n"
    assert list(tmp_path.iterdir()) == [path]


def test_transcripts_have_single_spaces_and_paths_are_left_alone(
    tmp_path: Path,
) -> None:
    for name in ("wav.scp", "text", "text.oracle"):
        (tmp_path / name).write_text("b  two   words \n")
    data = DataDir.load(tmp_path)
    assert data.wav == {"b": "two   words"}
    assert data.text == data.oracle == {"b": "two words"}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "text"
    write_table(path, {"a": "old"})
    with pytest.raises(TypeError):
        write_table(path, {"a": "new", 3: "mixed keys cannot be sorted"})
    assert path.read_text() == "a old\n"
    assert list(tmp_path.iterdir()) == [path]


# LibriSpeech layout


def test_four_directories_come_out(corpus: Path, tmp_path: Path) -> None:
    prepare([corpus], SETS, tmp_path / "data")
    labeled = DataDir.load(tmp_path / "data" / "labeled")
    assert list(labeled.wav) == [f"{s}-1-000{i}" for s in ("10", "9") for i in (0, 1)]
    assert labeled.text["9-1-0001"] == "HELLO WORLD B"
    assert labeled.speaker["9-1-0001"] == "9"
    spk2utt = (tmp_path / "data" / "labeled" / "spk2utt").read_text()
    assert spk2utt == "10 10-1-0000 10-1-0001\n9 9-1-0000 9-1-0001\n"


def test_transcripts_of_unlabeled_data_are_never_called_text(
    corpus: Path, tmp_path: Path
) -> None:
    prepare([corpus], SETS, tmp_path / "data")
    unlabeled = tmp_path / "data" / "unlabeled"
    assert not (unlabeled / "text").exists()
    assert len(read_table(unlabeled / "text.oracle")) == 4


def test_unlabeled_data_need_no_transcripts(corpus: Path, tmp_path: Path) -> None:
    write_set(corpus, "mute", ["50"], text=False)
    prepare([corpus], SETS | {"unlabeled": ["mute"]}, tmp_path / "data")
    assert not (tmp_path / "data" / "unlabeled" / "text.oracle").exists()


def test_sets_may_lie_in_several_roots_and_below_librispeech(
    corpus: Path, tmp_path: Path
) -> None:
    write_set(tmp_path / "more" / "LibriSpeech", "other", ["60"])
    data = read_set("other", [corpus, tmp_path / "more"], labeled=True)
    assert set(data.wav) == {"60-1-0000", "60-1-0001"}


def test_speakers_are_split_by_name_without_loss(tmp_path: Path) -> None:
    write_set(tmp_path, "test", ["7", "10", "30", "2", "100"], count=1)
    parts = [[p.name for p in speakers_of(tmp_path / "test", f"{i}/2")] for i in (0, 1)]
    assert parts == [["10", "100"], ["2", "30", "7"]]


@pytest.mark.parametrize("part", ["2/2", "x", "1", "0/9"])
def test_bad_splits_are_refused(tmp_path: Path, part: str) -> None:
    write_set(tmp_path, "test", ["1", "2"], count=1)
    with pytest.raises(RecipeError, match="I/N|is empty"):
        speakers_of(tmp_path / "test", part)


def test_missing_transcripts_of_labeled_data_are_refused(corpus: Path) -> None:
    write_set(corpus, "mute", ["50"], text=False)
    with pytest.raises(RecipeError, match="2 of 2 .* no transcript: 50-1-0000"):
        read_set("mute", [corpus], labeled=True)


def test_missing_and_ambiguous_sets_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no set folder nosuch"):
        read_set("nosuch", [corpus], labeled=True)
    write_set(tmp_path / "twin", "train", ["70"])
    with pytest.raises(RecipeError, match="more than one place"):
        read_set("train", [corpus, tmp_path / "twin"], labeled=True)


def test_an_empty_unlabeled_set_is_refused(corpus: Path, tmp_path: Path) -> None:
    (corpus / "hollow" / "1" / "1").mkdir(parents=True)
    with pytest.raises(RecipeError, match="set hollow has no audio"):
        prepare([corpus], SETS | {"unlabeled": ["hollow"]}, tmp_path / "data")


def test_paths_with_spaces_are_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "my corpus", "train", ["1"])
    with pytest.raises(RecipeError, match="white space"):
        read_set("train", [tmp_path / "my corpus"], labeled=True)


# Overlap


@pytest.mark.parametrize("part", ["dev", "test"])
def test_unlabeled_data_that_overlap_dev_or_test_are_refused(
    corpus: Path, tmp_path: Path, part: str
) -> None:
    with pytest.raises(RecipeError, match=rf"2 .* {part} set.*0-1-0000"):
        prepare([corpus], SETS | {"unlabeled": ["extra", part]}, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_equal_audio_under_another_name_is_an_overlap(
    corpus: Path, tmp_path: Path
) -> None:
    audio = (corpus / "dev" / "30" / "1" / "30-1-0001.flac").read_bytes()
    (corpus / "extra" / "20" / "1" / "20-1-0000.flac").write_bytes(audio)
    with pytest.raises(RecipeError, match="dev set, by name or by content: 20-1-0000"):
        prepare([corpus], SETS, tmp_path / "data")


def test_labeled_audio_is_dropped_from_the_unlabeled_set(
    corpus: Path, tmp_path: Path
) -> None:
    sets = SETS | {"unlabeled": ["extra", "train"]}
    lines = prepare([corpus], sets, tmp_path / "data")
    assert lines[0].startswith("warning: 4 unlabeled utterances")
    unlabeled = DataDir.load(tmp_path / "data" / "unlabeled")
    assert {utt.partition("-")[0] for utt in unlabeled.wav} == {"20", "21"}
    assert set(unlabeled.oracle) == set(unlabeled.wav)


def test_nothing_but_labeled_audio_is_no_unlabeled_set(corpus: Path) -> None:
    labeled = read_set("train", [corpus], True)
    parts = {
        "labeled": labeled,
        "unlabeled": read_set("train", [corpus], False),
        "dev": read_set("dev", [corpus], True),
        "test": read_set("test", [corpus], True),
    }
    with pytest.raises(RecipeError, match="every unlabeled utterance"):
        separate(parts)


def test_files_of_equal_size_and_head_are_told_apart(tmp_path: Path) -> None:
    for name, end in (("a", b"x"), ("b", b"y"), ("c", b"x")):
        (tmp_path / name).write_bytes(bytes(100_000) + end)
    paths = {name: str(tmp_path / name) for name in "abc"}
    assert same_audio({"u": paths["a"]}, {"v": paths["b"], "w": paths["c"]}) == {
        "u": "w"
    }


# The user's own directories


def test_own_kaldi_directories_are_copied(tmp_path: Path) -> None:
    dirs = {
        "labeled": kaldi_dir(tmp_path, "lab", 0),
        "unlabeled": kaldi_dir(tmp_path, "unl", 10, text=False),
        "dev": kaldi_dir(tmp_path, "dev", 20),
    }
    options = [word for part, path in dirs.items() for word in (f"--{part}", path)]
    tests = [kaldi_dir(tmp_path, "one", 30), kaldi_dir(tmp_path, "two", 40)]
    out = tmp_path / "data"
    result = run_local("prepare_kaldi.py", *options, "--test", *tests, "--out", out)
    assert result.returncode == 0, result.stderr
    test = DataDir.load(out / "test")
    assert set(test.set_name.values()) == {"one", "two"}
    assert test.speaker["one30"] == "one30"
    assert not (out / "unlabeled" / "text.oracle").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lab0": "sox a.wav -t wav - |"}, "1 entries are commands.*--allow_pipes"),
        ({"lab0": "no_such.wav", "lab1": "b"}, "2 of 2 files .* do not exist"),
        ({"lab0": "my file.wav"}, "2 of 2 files .*several words"),
        ({"a/b": "x.wav"}, "must not contain '/'"),
    ],
)
def test_own_wav_scp_is_checked(
    tmp_path: Path, change: dict[str, str], message: str
) -> None:
    labeled = kaldi_dir(tmp_path, "lab", 0)
    write_table(labeled / "wav.scp", change)
    other = kaldi_dir(tmp_path, "dev", 10)
    arguments = ["--unlabeled", other, "--dev", other, "--test", other]
    result = run_local(
        "prepare_kaldi.py", "--labeled", labeled, *arguments, "--out", tmp_path / "data"
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert re.search(message, result.stderr), result.stderr


# Audio


def format_audio(
    tmp_path: Path, files: dict[str, Path], *options: object
) -> subprocess.CompletedProcess[str]:
    """Format a directory that names the files; the result is in ``out``."""
    wav = {utterance: str(path) for utterance, path in files.items()}
    data = DataDir(wav=wav, speaker=dict.fromkeys(wav, "s"))
    data.set_name, data.text = dict.fromkeys(wav, "set"), dict.fromkeys(wav, "A")
    data.save(tmp_path / "in")
    arguments = ["--source", tmp_path / "in", "--target", tmp_path / "out"]
    return run_local("format_audio.py", *arguments, "--nj", 1, *options)


def test_fitting_audio_is_used_in_place(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, noise(1), RATE)
    result = format_audio(tmp_path, {"a": path}, "--fs", RATE)
    assert result.returncode == 0, result.stderr
    out = DataDir.load(tmp_path / "out")
    assert out.wav == {"a": str(path)}
    assert out.samples == {"a": str(RATE // 2)}


def test_another_rate_is_refused_with_name_rate_and_option(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(1), RATE)
    result = format_audio(tmp_path, {"a": tmp_path / "a.wav"}, "--fs", 16000)
    assert result.returncode == 1
    assert "a has 8000 Hz" in result.stderr
    assert "--resample true" in result.stderr
    assert not (tmp_path / "out" / "wav.scp").exists()


@pytest.mark.slow
def test_resampling_keeps_a_tone_and_several_channels_are_averaged(
    tmp_path: Path,
) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 500 * np.arange(RATE) / RATE)
    soundfile.write(tmp_path / "a.wav", np.stack([tone, 0 * tone], axis=1), RATE)
    options = ["--fs", 16000, "--resample", "true"]
    result = format_audio(tmp_path, {"a": tmp_path / "a.wav"}, *options)
    assert result.returncode == 0, result.stderr
    assert "1 averaged from several channels" in result.stdout
    audio, rate = soundfile.read(DataDir.load(tmp_path / "out").wav["a"])
    assert (rate, audio.shape) == (16000, (16000,))
    expected = 0.25 * np.sin(2 * np.pi * 500 * np.arange(16000) / 16000)
    assert np.abs(audio - expected)[500:-500].max() < 0.01


@pytest.fixture
def audio_with_bad(tmp_path: Path) -> dict[str, Path]:
    """Four good files, one cut in the middle, one that is no audio, one empty."""
    files = {f"u{index}": tmp_path / f"u{index}.flac" for index in range(7)}
    for index, path in enumerate(files.values()):
        soundfile.write(path, noise(index, seconds=0.0 if index == 6 else 2.0), RATE)
    whole = files["u4"].read_bytes()
    files["u4"].write_bytes(whole[: len(whole) // 2])
    files["u5"].write_text("this is no audio")
    return files


def test_bad_audio_is_named_counted_and_left_out(
    tmp_path: Path, audio_with_bad: dict[str, Path]
) -> None:
    options = ["--fs", RATE, "--max_bad_share", 0.5]
    result = format_audio(tmp_path, audio_with_bad, *options)
    assert result.returncode == 0, result.stderr
    assert "3 of 7 files are unusable: u4, u5, u6" in result.stdout
    assert set(read_table(tmp_path / "out" / "bad_audio")) == {"u4", "u5", "u6"}
    out = DataDir.load(tmp_path / "out")
    assert set(out.wav) == set(out.text) == {"u0", "u1", "u2", "u3"}


def test_too_much_bad_audio_stops(
    tmp_path: Path, audio_with_bad: dict[str, Path]
) -> None:
    options = ["--fs", RATE, "--max_bad_share", 0.4]
    result = format_audio(tmp_path, audio_with_bad, *options)
    assert result.returncode == 1
    assert "3 of 7 files are unusable" in result.stderr
    assert "u4 cannot be decoded" in result.stderr


@pytest.mark.slow
def test_speed_perturbation_changes_the_length_only(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", noise(1, seconds=0.9), RATE)
    data = DataDir({"s-a": str(tmp_path / "a.wav")}, {"s-a": "s"}, {"s-a": "set"})
    data.text = {"s-a": "HELLO"}
    data.save(tmp_path / "in")
    arguments = ["--source", tmp_path / "in", "--target", tmp_path / "out"]
    arguments += ["--audio", tmp_path / "audio", "--nj", 1, "--factors"]
    result = run_local("perturb_speed.py", *arguments, "0.9", "1.0")
    assert result.returncode == 0, result.stderr
    out = DataDir.load(tmp_path / "out")
    assert set(out.wav) == {"s-a", "sp0.9-s-a"}
    assert out.speaker["sp0.9-s-a"] == "sp0.9-s"
    assert out.text["sp0.9-s-a"] == "HELLO"
    assert soundfile.info(out.wav["sp0.9-s-a"]).frames == RATE
    result = run_local("perturb_speed.py", *arguments, "0.9", "fast")
    assert result.returncode == 1
    assert "speed factor 'fast'" in result.stderr


def test_long_short_and_silent_utterances_are_left_out_and_counted(
    tmp_path: Path,
) -> None:
    names = ["ok", "short", "long", "empty"]
    data = DataDir(dict.fromkeys(names, "x.wav"), dict.fromkeys(names, "s"))
    data.text = dict.fromkeys(names, "A") | {"empty": ""}
    data.samples = dict(zip(names, ("8000", "799", "80001", "8000"), strict=True))
    data.save(tmp_path / "in")
    line = filter_directory(tmp_path / "in", tmp_path / "out", RATE, 0.1, 10.0)
    assert list(DataDir.load(tmp_path / "out").wav) == ["ok"]
    assert "1 shorter" in line and "1 longer" in line and "1 without text" in line
    with pytest.raises(RecipeError, match="no utterance is left"):
        filter_directory(tmp_path / "in", tmp_path / "out", RATE, 20.0, 30.0)


# Tokens and lists


def test_bpe_token_list_has_espnet_form(tmp_path: Path) -> None:
    words = "THE CAT SAT ON THE MAT AND THE DOG SAT ON THE CAT"
    write_table(tmp_path / "text", {f"u{index}": words for index in range(20)})
    tokens, model = tmp_path / "tokens.txt", tmp_path / "bpe.model"
    count = train_bpe.train(tmp_path / "text", tokens, model, 16)
    lines = tokens.read_text().splitlines()
    assert count == len(lines) == 16
    assert lines[:2] == ["<blank>", "<unk>"] and lines[-1] == "<sos/eos>"
    assert len(set(lines)) == 16
    with pytest.raises(RecipeError, match="--nbpe 5000"):
        train_bpe.train(tmp_path / "text", tokens, model, 5000)


def test_parts_are_balanced_and_lose_nothing() -> None:
    samples = {f"u{index}": str(index) for index in range(1, 8)}
    parts = split_keys.split(samples, 3)
    assert sorted(utt for part in parts for utt in part) == sorted(samples)
    totals = [sum(map(int, part.values())) for part in parts]
    assert max(totals) - min(totals) <= 2
    with pytest.raises(RecipeError, match="7 utterances make no 8 parts"):
        split_keys.split(samples, 8)


def test_missing_hypotheses_are_named(tmp_path: Path) -> None:
    write_table(tmp_path / "wav.scp", {"a": "a.wav", "b": "b.wav"})
    write_table(tmp_path / "1" / "1best_recog" / "text", {"a": "HELLO"})
    with pytest.raises(RecipeError, match="1 utterances were not decoded: b"):
        merge_decode.join(tmp_path, tmp_path / "wav.scp")
    write_table(tmp_path / "2" / "1best_recog" / "text", {"b": ""})
    merge_decode.join(tmp_path, tmp_path / "wav.scp")
    assert read_table(tmp_path / "text") == {"a": "HELLO", "b": ""}


def test_a_stopped_decoding_keeps_its_whole_lines(tmp_path: Path) -> None:
    scp, out = tmp_path / "wav.scp", tmp_path / "decode"
    names = [f"u{index}" for index in range(6)]
    write_table(scp, {name: f"{name}.wav" for name in names})
    write_table(tmp_path / "utt2num_samples", dict.fromkeys(names, "100"))
    merge_decode.rest(out, scp, 2)
    keys = [read_table(out / "keys" / f"keys.{part}") for part in (1, 2)]
    assert sorted(keys[0] | keys[1]) == names and len(keys[0]) == 3
    # Each job was killed while a line was written.
    for part, lines in ((1, "u0 A B\nu2 \nu4 C"), (2, "u1 D\nu3")):
        folder = out / str(part) / "1best_recog"
        folder.mkdir(parents=True)
        (folder / "text").write_text(lines)
    merge_decode.rest(out, scp, 4)
    left = [read_table(file) for file in sorted((out / "keys").iterdir())]
    assert [len(part) for part in left] == [1, 1, 1]
    assert sorted(key for part in left for key in part) == ["u3", "u4", "u5"]
    # The next jobs write the same files anew, and are stopped as well.
    (out / "1" / "1best_recog" / "text").write_text("u3 E\n")
    merge_decode.rest(out, scp, 1)
    (out / "1" / "1best_recog" / "text").write_text("u4 F\nu5 G\n")
    merge_decode.join(out, scp)
    expected = {"u0": "A B", "u1": "D", "u2": "", "u3": "E", "u4": "F", "u5": "G"}
    assert read_table(out / "text") == expected
    merge_decode.rest(out, scp, 2)
    assert not list((out / "keys").iterdir())


# Scores and tables


def test_errors_are_counted() -> None:
    words = scoring.score(["A B C", "D"], ["A X C Y", ""], "word")
    counts = (words.reference, words.substitutions, words.deletions, words.insertions)
    assert counts == (4, 1, 1, 1)
    assert words.rate == 75.0
    assert words.low <= words.rate <= words.high
    chars = scoring.score(["AB C"], ["AB  C"], "char")
    assert (chars.reference, chars.rate) == (4, 0.0)
    assert scoring.score(["A B"], ["AB"], "char").deletions == 1


def test_the_confidence_interval_is_repeatable_and_shrinks() -> None:
    generator = np.random.default_rng(0)
    references = ["A B C D"] * 400
    hypotheses = [
        " ".join(word if generator.random() > 0.3 else "X" for word in "ABCD")
        for _ in references
    ]
    few = scoring.score(references[:40], hypotheses[:40], "word")
    many = scoring.score(references, hypotheses, "word")
    assert many == scoring.score(references, hypotheses, "word")
    # 1600 words at 30 %: 1.96 * sqrt(0.3 * 0.7 / 1600) = 2.2 percent points.
    assert (many.high - many.low) / 2 == pytest.approx(2.2, abs=0.5)
    assert few.high - few.low > 2 * (many.high - many.low)


def test_references_without_words_are_refused() -> None:
    with pytest.raises(UserError, match="no words"):
        scoring.score(["", ""], ["A", ""], "word")


@pytest.fixture
def formatted(tmp_path: Path) -> Path:
    """Formatted data with one dev set and two test sets, one utterance each."""
    for place, names in (
        ("labeled", ["train"]),
        ("unlabeled", ["extra"]),
        ("org/dev", ["dev-clean"]),
        ("org/test", ["test-clean", "test-other"]),
    ):
        utts = {f"{name}-1": name for name in names}
        data = DataDir(dict.fromkeys(utts, "x.wav"), dict.fromkeys(utts, "s"), utts)
        data.samples = dict.fromkeys(utts, str(RATE * 3600))
        if place != "unlabeled":
            data.text = dict.fromkeys(utts, "A B C D")
        data.save(tmp_path / "dump" / place)
    return tmp_path


def write_run(exp: Path, seed: int, system: str, hypothesis: str) -> None:
    """Write what decoding leaves of a system, the same hypothesis everywhere."""
    utterances = ("dev-clean-1", "test-clean-1", "test-other-1")
    place = exp / f"seed{seed}" / system / "decode"
    write_table(place / "text", dict.fromkeys(utterances, hypothesis))
    (place.parent / "train.log").write_text("# some/python -m x.train --seed 1\n")


def run_results(root: Path, *systems: str) -> list[dict[str, object]]:
    arguments = ["--exp", root / "exp", "--dump", root / "dump", "--fs", RATE]
    arguments += ["--seeds", 1, 2, "--systems", *systems]
    result = run_local("results.py", *arguments)
    assert result.returncode == 0, result.stderr
    return json.loads((root / "exp" / "results.json").read_text())


def test_a_part_with_several_sets_is_scored_by_set(formatted: Path) -> None:
    sets = scoring.load_references(formatted / "dump" / "org")
    assert list(sets) == ["dev", "test-clean", "test-other"]


@pytest.mark.slow
def test_results_are_compared_by_seed(formatted: Path) -> None:
    exp = formatted / "exp"
    for seed in (1, 2):
        write_run(exp, seed, "warmup", "X X X X")
        write_run(exp, seed, "control", "A X X X")
        write_run(exp, seed, "hard_ctc", "A B C D" if seed == 1 else "A B X X")
    write_run(exp, 1, "hard_ctc.previous", "X X X X")
    write_run(exp, 1, "hard_ctc.previous2", "X X X X")
    records = run_results(formatted, "warmup", "control", "hard_ctc", "soft_ce")
    text = (exp / "results.txt").read_text()
    rows = [line.split("  ") for line in text.splitlines()]
    rows = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert rows[0][-2:] == ["test-other CER %", "test-other WER %"]
    by_name = {(row[0], row[1]): row for row in rows[2:]}
    assert by_name["hard_ctc", "2"][-1] == "50.0 ±0.0"
    assert by_name["hard_ctc", "mean"][-1] == "25.0 (0.0 to 50.0)"
    assert by_name["soft_ce", "1"][2:] == ["not run"] * 6
    assert not any("previous" in name for name, _ in by_name)
    hard = [run for run in records if (run["system"], run["seed"]) == ("hard_ctc", "2")]
    assert hard[0]["scores"]["dev"]["word"]["substitutions"] == 2
    assert hard[0]["command"] == "python -m x.train --seed 1"
    results = (exp / "RESULTS.md").read_text()
    assert "| labeled | train | 1 | 1 | 1.00 |" in results
    assert "| hard_ctc | 2 | 28.6 ±0.0 (2 S, 0 D, 0 I) | 50.0 ±" in results
    # Against the control 3 and 1 of 4 words less: 50 points, 67 % of its 75.
    assert "| hard_ctc | control | dev WER | 2 | -50.00 | -66.7 | -50.00 to" in results
    check_page(exp / "report.html")


@pytest.mark.slow
def test_old_decodings_of_other_data_are_left_out(formatted: Path) -> None:
    exp = formatted / "exp"
    for seed in (1, 2):
        write_run(exp, seed, "warmup", "A B C D")
    write_run(exp, 5, "warmup", "A B C D")
    write_table(exp / "seed5" / "warmup" / "decode" / "text", {"gone-1": "A"})
    assert {run["seed"] for run in run_results(formatted, "warmup")} == {"1", "2"}
    write_table(exp / "seed2" / "warmup" / "decode" / "text", {"gone-1": "A"})
    with pytest.raises(AssertionError, match="decode/text does not fit the data"):
        run_results(formatted, "warmup")


def test_results_without_any_decoding_are_refused(formatted: Path) -> None:
    arguments = ["--exp", formatted / "exp", "--dump", formatted / "dump"]
    arguments += ["--fs", RATE, "--seeds", 1, "--systems", "warmup"]
    result = run_local("results.py", *arguments)
    assert result.returncode == 1
    assert "run stage 10 first" in result.stderr


def test_curves_have_batches_and_leave_out_what_is_not_finite() -> None:
    stats = {
        epoch: {
            "train": {"loss": 1.0 / epoch, "pl_cer": value, "total_count": 10 * epoch},
            "valid": {"cer_ctc": 0.5, "total_count": 1},
        }
        for epoch, value in ((1, float("nan")), (2, 0.4), (3, 0.3))
    }
    history = read_history(stats)
    assert history["train/pl_cer"] == [(20, 0.4), (30, 0.3)]
    assert [step for step, _ in history["valid/cer_ctc"]] == [10, 20, 30]


# Progress


def test_training_is_followed_through_its_log(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    assert follow.count_epochs(log) == (0, 0)
    log.write_text("loading\n")
    assert follow.count_epochs(log) == (0, 0)
    started = "INFO: 1/30epoch started\n"
    later = "INFO: 7/30epoch started. Estimated time to finish: 2 minutes\n"
    log.write_text(started + later + 99999 * ".")
    assert follow.count_epochs(log) == (0, 0), "the tail alone is read"
    log.write_text(started + later)
    assert follow.count_epochs(log) == (6, 30)
    log.write_text(started + later + "# Ended (code 1) at noon\n")
    assert follow.count_epochs(log) == (6, 30)
    log.write_text(started + later + "# Ended (code 0) at noon\n")
    assert follow.count_epochs(log) == (30, 30)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["train", "decode"])
def test_what_is_followed_is_shown_until_it_is_stopped(
    tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "seed1" / "mpl"
    (place / "decode" / "log").mkdir(parents=True)
    (place / "train.log").write_text("INFO: 7/30epoch started\n")
    os.utime(place / "train.log", (time.time() + 100,) * 2)
    (place / "decode" / "log" / "decode.1.log").write_text("INFO: speech length: 5\n")
    write_table(tmp_path / "wav.scp", {"a": "x", "b": "y"})
    command = [
        warm_python.executable(),
        RECIPE / "local" / "follow.py",
        kind,
        "--exp",
        tmp_path,
    ]
    command += ["--seeds", "1", "--systems", "mpl", "--scp", tmp_path / "wav.scp"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wanted = {"train": "6/30", "decode": "1/2"}[kind]
        shown = ""
        while wanted not in shown:
            shown += process.stderr.read(1)
        process.terminate()
        process.communicate(timeout=30)
    assert process.returncode == 0
    assert {"train": "seed1/mpl", "decode": "utterances decoded"}[kind] in shown


def test_one_killed_as_it_writes_stops_no_other() -> None:
    """Forks of one process would share the lock of tqdm: each has its own."""
    holds = "from tqdm import tqdm; tqdm.get_lock().acquire(); import os; os._exit(0)"
    shows = "from tqdm import tqdm; list(tqdm(range(3)))"
    for words in (holds, shows):
        command = [warm_python.executable(), "-"]
        subprocess.run(command, input=words, text=True, check=True, timeout=60)


def test_decoded_utterances_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("INFO: speech length: 5\n" * 3)
    assert follow.count_decoded([tmp_path / "a.log", tmp_path / "b.log"]) == 3
