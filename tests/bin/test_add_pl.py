"""The command `add_pl`: numbers out of range are refused."""

from __future__ import annotations

import pytest

from espnet_softpl.bin import add_pl


@pytest.mark.parametrize("option", ["--unlabeled_steps", "--max_epoch"])
def test_counts_begin_at_1(option, capsys) -> None:
    words = ["--asr_exp", "exp", "--unlabeled", "data", "--out", "pl.yaml"]
    assert vars(add_pl.get_parser().parse_args([*words, option, "1"]))[option[2:]] == 1
    with pytest.raises(SystemExit):
        add_pl.get_parser().parse_args([*words, option, "0"])
    assert f"argument {option}: 0 is not at least 1" in capsys.readouterr().err


def test_the_model_comes_from_one_place(capsys) -> None:
    words = ["--asr_exp", "exp", "--archive", "model.zip"]
    with pytest.raises(SystemExit):
        add_pl.get_parser().parse_args(words)
    assert "not allowed with argument" in capsys.readouterr().err
