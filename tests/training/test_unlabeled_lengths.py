"""Lengths of unlabeled audio of every source, found before a training begins."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import pytest
import soundfile
import torch

from espnet_softpl.core.errors import UserError
from espnet_softpl.data import tables
from espnet_softpl.training import lengths
from espnet_softpl.training.keys import UNLABELED_DATA
from espnet_softpl.training.resume.layout import STATE_DIR
from tests.support.audio_forms import (
    noise,
    read_entries,
    write_archive,
    write_features,
    write_lines,
    write_plain,
)

MODEL = torch.nn.Linear(1, 1)


def options(scp: Path, kind: str = "sound", **more) -> argparse.Namespace:
    values = {
        UNLABELED_DATA: [(str(scp), "speech", kind)],
        "unlabeled_shape_file": [],
        "train_shape_file": [],
        "input_size": None,
        "pl_max_bad_share": 0.5,
        "frontend_conf": None,
        "resume": False,
        "output_dir": str(scp.parent / "exp"),
    }
    return argparse.Namespace(**values | more)


def test_unlabeled_lengths_of_every_source(tmp_path: Path, caplog) -> None:
    plain = write_plain(tmp_path / "plain", 2, seed=1) / "wav.scp"
    assert set(lengths.unlabeled_lengths(options(plain)).values()) == {9600}
    first = str(write_lines(tmp_path / "first", {"a": "7"}))
    second = str(write_lines(tmp_path / "second", {"b": "8,20"}))
    args = options(plain, unlabeled_shape_file=[first, second])
    assert lengths.unlabeled_lengths(args) == {"a": 7, "b": 8}
    with plain.open("a") as file:
        file.write("gone gone.wav\n")
    with caplog.at_level(logging.WARNING):
        assert len(lengths.unlabeled_lengths(options(plain))) == 2
    assert "1 unlabeled utterances are left out, for they cannot" in caplog.text
    with pytest.raises(UserError, match=r"1 of 3 utterances \(33.3%\) cannot be used"):
        lengths.unlabeled_lengths(options(plain, pl_max_bad_share=0.3))


def test_lengths_beside_archives_are_taken(tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "ark", "flac", seed=1)
    scp = archive / "wav.scp"
    assert set(lengths.unlabeled_lengths(options(scp, "kaldi_ark")).values()) == {9600}
    beside = dict.fromkeys(read_entries(archive), "9601")
    write_lines(archive / "utt2num_samples", beside)
    assert set(lengths.unlabeled_lengths(options(scp, "kaldi_ark")).values()) == {9601}
    features = write_features(tmp_path / "feats.scp", ["a", "b"], 20, seed=1)
    write_lines(tmp_path / "feats_shape", {"a": "70,20", "b": "71,20"})
    args = options(features, "kaldi_ark", input_size=20)
    assert lengths.unlabeled_lengths(args) == {"a": 70, "b": 71}
    with pytest.raises(UserError, match="takes features of dimension 80"):
        lengths.unlabeled_lengths(options(features, "kaldi_ark", input_size=80))


def test_what_is_too_short_is_left_out(tmp_path: Path, monkeypatch, caplog) -> None:
    scp = write_plain(tmp_path / "in", 2, seed=1) / "wav.scp"
    short = write_plain(tmp_path / "short", 1, seed=5)
    (name, path), *_ = read_entries(short).items()
    soundfile.write(path, noise(5)[:399], 16000)
    with scp.open("a") as file:
        file.write(f"{name} {path}\n")
    monkeypatch.setattr(lengths, "frames_of", lambda model, n, dim: n // 200)
    args = options(scp)
    lengths.write_usable(args, MODEL)
    written = tables.read_lengths(lengths.usable_shape_file(args))
    assert set(written.values()) == {9600} and len(written) == 2
    assert "fewer than the 400 samples that make two frames" in caplog.text
    with pytest.raises(UserError, match="1 of 3 .* fewer than the 400 samples"):
        lengths.write_usable(options(scp, pl_max_bad_share=0.0), MODEL)


def test_a_resumed_run_keeps_its_utterances(tmp_path: Path, monkeypatch) -> None:
    directory = write_plain(tmp_path / "in", 2, seed=1)
    monkeypatch.setattr(lengths, "frames_of", lambda model, n, dim: n)
    args = options(directory / "wav.scp", resume=True)
    lengths.write_usable(args, MODEL)
    state = Path(args.output_dir) / STATE_DIR / "1epoch.rank0.pth"
    state.parent.mkdir()
    state.touch()
    before = lengths.usable_shape_file(args).read_text()
    first, second = read_entries(directory).values()
    Path(first).unlink()  # Audio that is gone does not change the mini-batches.
    lengths.write_usable(args, MODEL)
    assert lengths.usable_shape_file(args).read_text() == before
    write_lines(directory / "wav.scp", {"in-1": second})
    with pytest.raises(UserError, match="cannot resume: 1 .*any more: in-0"):
        lengths.write_usable(args, MODEL)


def test_a_run_that_saved_nothing_takes_the_data_that_are_there(
    tmp_path: Path, monkeypatch
) -> None:
    """Started with `--resume true`, as scheduled jobs are, it failed at once."""
    monkeypatch.setattr(lengths, "frames_of", lambda model, n, dim: n)
    directory = write_plain(tmp_path / "in", 2, seed=1)
    args = options(directory / "wav.scp", resume=True)
    lengths.write_usable(args, MODEL)
    both = read_entries(directory)
    for entries in ({"new": both["in-0"], **both}, {"in-1": both["in-1"]}):
        write_lines(directory / "wav.scp", entries)
        lengths.write_usable(args, MODEL)
        usable = tables.read_lengths(lengths.usable_shape_file(args))
        assert usable.keys() == entries.keys()


def test_a_recording_of_an_hour_is_told_of(tmp_path, caplog) -> None:
    args = options(tmp_path / "wav.scp")
    counts = {f"u{i}": 64000 + i for i in range(9)}
    lengths._warn_of_long(args, counts, "unlabeled")
    assert not caplog.text
    lengths._warn_of_long(args, counts | {"whole": 3600 * 16000}, "unlabeled")
    assert "1 unlabeled utterances are more than 10 times longer" in caplog.text
    assert "median (4.0 s)" in caplog.text and "whole: 3600 s. Cut" in caplog.text
