"""Lengths of utterances, from ESPnet's options and shape files."""

from __future__ import annotations

import argparse

import numpy as np
import pytest
import soundfile

from espnet_softpl.core.errors import UserError
from espnet_softpl.training import lengths
from tests.training.test_model import make_model


def options(tmp_path, **changes) -> argparse.Namespace:
    for name, text in (
        ("speech_shape", "a 16000\nb 8000\n"),
        ("text_shape", "a 5,30\nb 2,30\n"),
        ("usable", "u1 12000\nu2 40\n"),
    ):
        (tmp_path / name).write_text(text)
    shapes = [str(tmp_path / name) for name in ("speech_shape", "text_shape")]
    values = dict(train_shape_file=shapes, frontend_conf=None, input_size=None)
    values |= dict(unlabeled_shape_file=[], output_dir=str(tmp_path), resume=False)
    return argparse.Namespace(**{**values, "pl_max_bad_share": 0.0, **changes})


def test_labeled_lengths_come_from_the_shape_files(tmp_path, caplog) -> None:
    tokens, samples = lengths.labeled_lengths(options(tmp_path))
    assert tokens == {"a": 5, "b": 2} and samples == {"a": 16000, "b": 8000}
    only = options(tmp_path, train_shape_file=[str(tmp_path / "speech_shape")])
    assert lengths.labeled_lengths(only) is None
    assert "pl_length_ratio is not known" in caplog.text


@pytest.mark.parametrize(
    ("conf", "rate"),
    [(None, 16000), ({"fs": "8k"}, 8000), ({"fs": 22050}, 22050)],
)
def test_the_sample_rate_is_that_of_the_front_end(tmp_path, conf, rate) -> None:
    assert lengths.sample_rate(options(tmp_path, frontend_conf=conf)) == rate


def test_unlabeled_lengths_come_from_headers_if_no_file_names_them(tmp_path) -> None:
    soundfile.write(tmp_path / "u.wav", np.zeros(3000), 16000)
    (tmp_path / "wav.scp").write_text(f"u {tmp_path / 'u.wav'}\n")
    data = [[str(tmp_path / "wav.scp"), "speech", "sound"]]
    args = options(tmp_path, unlabeled_data_path_and_name_and_type=data)
    assert lengths.unlabeled_lengths(args) == {"u": 3000}
    args.unlabeled_shape_file = [str(tmp_path / "usable")]
    assert lengths.unlabeled_lengths(args) == {"u1": 12000, "u2": 40}


def test_too_short_audio_is_left_out_or_refused(tmp_path, caplog) -> None:
    model = make_model()
    shapes = [str(tmp_path / "usable")]
    args = options(tmp_path, unlabeled_shape_file=shapes)
    with pytest.raises(UserError, match="two frames of the encoder"):
        lengths.write_usable(args, model)
    args.pl_max_bad_share = 0.5
    lengths.write_usable(args, model)
    assert "u2: 40" in caplog.text and model.training
    file = lengths.usable_shape_file(args)
    assert file.read_text().split() == ["u1", "12000"]


def test_a_resumed_run_wants_the_data_it_began_with(tmp_path) -> None:
    (tmp_path / "unlabeled_shape").write_text("gone 12000\n")
    (tmp_path / "wav.scp").write_text("other /nowhere.wav\n")
    data = [[str(tmp_path / "wav.scp"), "speech", "sound"]]
    args = options(tmp_path, unlabeled_data_path_and_name_and_type=data, resume=True)
    with pytest.raises(UserError, match="cannot resume: 1 unlabeled .*gone"):
        lengths.write_usable(args, make_model())
