"""Data directories that ESPnet can read are taken, others refused."""

from __future__ import annotations

from pathlib import Path

import kaldiio
import numpy as np
import pytest

from tests.support.add_pl_recipe import (
    NOISE,
    call,
    changed_base,
    options,
    refusal,
    run_printed,
    write_audio,
)
from tests.support.espnet_runs import RATE


def test_data_given_anew_are_measured_as_espnet_does(
    here, bpe_base, tmp_path, capsys
) -> None:
    values, command, output = call(
        capsys,
        *options(tmp_path, exp=bpe_base),
        *("--labeled", "data/labeled", "--valid", "data/dev"),
    )
    assert "train_shape_file: given again" in output
    for part, theirs in (("train", "train"), ("valid", "valid")):
        for file, other in zip(
            values[f"{part}_shape_file"], ("speech_shape", "text_shape"), strict=True
        ):
            lines = open(file).read().splitlines()
            expected = open(f"exp/stats/{theirs}/{other}").read().splitlines()
            if other == "text_shape":  # asr.sh adds the size of the vocabulary.
                size = len(open("bpe/tokens.txt").read().split())
                expected = [f"{line},{size}" for line in expected]
            assert sorted(lines) == sorted(expected)
    assert str(tmp_path / "asr pl_data/train/text_shape") in values["train_shape_file"]
    run_printed(command)


@pytest.mark.parametrize(
    "content, message",
    [
        ((RATE, np.zeros(RATE, np.int16)), ": a WAV file within an archive"),
        (
            np.zeros((60, 20), np.float32),
            ": features of dimension 20, but the model takes audio",
        ),
        (None, "cannot be used"),
    ],
    ids=["wav", "features", "gone"],
)
def test_archives_that_cannot_be_used(here, tmp_path, capsys, content, message) -> None:
    base = tmp_path / "wav"
    with kaldiio.WriteHelper(f"ark,scp:{base}.ark,{base}.scp") as writer:
        writer["a"] = np.zeros((1, 1), np.float32) if content is None else content
    if content is None:
        Path(f"{base}.ark").unlink()
    (tmp_path / "utt2num_samples").write_text("a 16000\n")
    assert message in refusal(capsys, *options(tmp_path, "--unlabeled", f"{base}.scp"))


def test_several_unlabeled_sets_are_merged(here, tmp_path, capsys) -> None:
    more = write_audio(tmp_path / "more", a=NOISE, b=NOISE)
    both = ("--unlabeled", "data/unlabeled/wav.scp", more)
    values, command, output = call(capsys, *options(tmp_path, *both))
    assert "22 utterances" in output
    ((merged, _, kind),) = values["unlabeled_data_path_and_name_and_type"]
    assert merged == str(tmp_path / "asr pl_data/unlabeled/wav.scp") and kind == "sound"
    assert len(open(merged).readlines()) == 22
    again = ("--unlabeled", more, more, "--overwrite")
    assert "Ids must differ" in refusal(capsys, *options(tmp_path, *again))


@pytest.mark.parametrize(
    "audio, message",
    [
        (dict(a=(NOISE, 8000)), "a.wav: 8000 Hz, but the model takes 16000 Hz"),
        (dict(a=np.stack([NOISE, NOISE], 1)), "a.wav: 2 channels, but"),
        (dict(a=NOISE[:0]), "cannot be used"),
        ({"dev-000": NOISE}, "are in the validation data too: dev-000"),
        ({}, "is empty"),
    ],
    ids=lambda value: value if isinstance(value, str) else "audio",
)
def test_audio_that_cannot_be_used(here, tmp_path, capsys, audio, message) -> None:
    directory = write_audio(tmp_path / "audio", **audio)
    wanted = options(tmp_path, "--unlabeled", directory)
    assert message in refusal(capsys, *wanted)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audio"]


def test_data_directories_that_espnet_cannot_read(here, tmp_path, capsys) -> None:
    directory = write_audio(tmp_path / "audio", a=NOISE)
    wanted = options(tmp_path, "--unlabeled", directory)
    (directory / "segments").write_text("a-1 a 0.0 0.5\n")
    assert "has a file 'segments'" in refusal(capsys, *wanted)
    (directory / "segments").unlink()
    (directory / "wav.scp").write_text("a sox a.sph -t wav - |\n")
    assert "1 utterances are read from commands" in refusal(capsys, *wanted)
    (directory / "wav.scp").write_text("a data/wav.ark:17\n")
    assert "cannot be used" in refusal(capsys, *wanted)
    (directory / "utt2num_samples").write_text("b 16000\n")
    assert "lacks a of" in refusal(capsys, *wanted)
    both = options(tmp_path, "--unlabeled", "data/unlabeled", directory)
    (directory / "utt2num_samples").write_text("a 16000\n")
    assert "give one sort" in refusal(capsys, *both)


def test_labeled_data_that_are_not_whole(here, tmp_path, capsys) -> None:
    directory = write_audio(tmp_path / "audio", a=NOISE, b=NOISE)
    wanted = options(tmp_path, "--labeled", directory)
    assert "text does not exist" in refusal(capsys, *wanted)
    (directory / "text").write_text("a A B\nc A\n")
    assert "1 utterances have audio and are not in text: b" in refusal(capsys, *wanted)
    (directory / "text").write_text("a A B\nb\n")  # b says nothing.
    (directory / "b.wav").unlink()
    assert "Labeled audio must be whole" in refusal(capsys, *wanted)
    missing = options(tmp_path, "--valid", tmp_path / "nowhere")
    assert "nowhere is no directory" in refusal(capsys, *missing)


def test_labeled_audio_that_is_gone(here, tmp_path, capsys) -> None:
    scp = tmp_path / "wav.scp"
    scp.write_text(Path("data/dev/wav.scp").read_text().replace("data/dev", "gone"))
    data = [[str(scp), "speech", "sound"], ["data/dev/text", "text", "text"]]
    exp = changed_base(tmp_path, valid_data_path_and_name_and_type=data)
    message = refusal(capsys, *options(tmp_path, exp=exp))
    assert "4 of 4 files that were tried" in message and "(or give --valid)" in message
