"""A base model is complete, or refused with what is missing."""

from __future__ import annotations

import shutil

import pytest

from espnet_softpl.commands.add_pl import base_model
from espnet_softpl.commands.experiment import read_config
from espnet_softpl.core.errors import UserError
from tests.support.add_pl_recipe import (
    NOISE,
    call,
    options,
    refusal,
    refusal_of_base,
    write_audio,
)


def test_a_run_from_elsewhere_is_told_where_to_run(
    recipe, tmp_path, capsys, monkeypatch
) -> None:
    (tmp_path / "unlabeled").mkdir()
    (tmp_path / "data/unlabeled").mkdir(parents=True)
    audio = write_audio(tmp_path / "unlabeled/a", a=NOISE)
    monkeypatch.chdir(tmp_path)
    message = refusal(
        capsys, *options(tmp_path, exp=recipe / "exp/asr_base"), "--unlabeled", audio
    )
    assert "train_data_path_and_name_and_type: data/labeled/wav.scp" in message
    assert f"relative to {recipe}: run this command, and the training, there" in message


def test_moved_files_are_found_again(here, bpe_base, tmp_path, capsys) -> None:
    shutil.move("bpe", "moved bpe")
    try:
        message = refusal(capsys, *options(tmp_path, exp=bpe_base))
        assert "bpemodel: bpe/bpe.model   (give --moved bpe/bpe.model NEW)" in message
        moved = ("--moved", "bpe/", "moved bpe")
        values, _, _ = call(capsys, *options(tmp_path, *moved, exp=bpe_base))
        assert values["bpemodel"] == "moved bpe/bpe.model"
    finally:
        shutil.move("moved bpe", "bpe")


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(model_conf=dict(ctc_weight=0.0)), "so it has no CTC head"),
        (dict(model="maskctc"), "the base model is 'maskctc'"),
        (dict(use_adapter=True), "adapters are not supported"),
        (dict(multi_task_dataset=True), "multi_task_dataset"),
        (dict(multiple_iterator=True), "give them whole by --labeled"),
        (
            dict(normalize="global_mvn", normalize_conf=dict(stats_file="gone.npz")),
            "normalize_conf.stats_file: gone.npz   (give --moved gone.npz NEW)",
        ),
        (
            dict(valid_shape_file=["gone/speech_shape"]),
            "valid_shape_file: gone/speech_shape   (give --valid DIR)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "_".join(value),
)
def test_a_base_model_that_cannot_be_used(
    here, tmp_path, capsys, changes, message
) -> None:
    assert message in refusal_of_base(capsys, tmp_path, **changes)


def test_a_choice_is_not_renamed_as_a_directory() -> None:
    rename = base_model.renaming([("bpe/", "moved bpe"), ("dump", "disk/dump")])
    assert rename("bpe") == "bpe" and rename("bpe/bpe.model") == "moved bpe/bpe.model"
    assert rename("dump/wav.scp") == "disk/dump/wav.scp"


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(token_list=["a", "<blank>"]), "the first token must be '<blank>'"),
        (dict(token_list=None), "holds no token_list"),
        (dict(iterator_type="chunk"), "needs 'sequence'"),
        (dict(frontend="s3prl"), "the base model cannot be built here"),
        (dict(frontend_conf=dict(fs="8k")), "16000 Hz, but the model takes 8000 Hz"),
        (dict(encoder_conf=dict(ctc_trim=True)), "encoder_conf.ctc_trim"),
        (
            dict(decoder="rnn", model_conf=dict(ctc_weight=0.5)),
            "do not fit the model: ",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "_".join(value),
)
def test_a_configuration_that_cannot_be(
    here, tmp_path, capsys, changes, message
) -> None:
    assert message in refusal_of_base(capsys, tmp_path, **changes)


def test_tokens_are_counted_as_espnet_does(here) -> None:
    config = read_config(here / "exp/asr_base/config.yaml")
    count = base_model.token_counter(config)
    assert count("a", "AB C") == 4  # The space is a token of its own.
    with pytest.raises(UserError, match="tokenizer cannot be built"):
        base_model.token_counter({**config, "token_type": "x"})
