"""The command `add_pl`: numbers out of range are refused."""

from __future__ import annotations

import pytest

from espnet_softpl.bin import add_pl
from espnet_softpl.training.schedule import Schedule


@pytest.mark.parametrize("option", ["--unlabeled_steps", "--max_epoch"])
def test_counts_begin_at_1(option, capsys) -> None:
    words = ["--asr_exp", ".", "--unlabeled", ".", "--out", "pl.yaml"]
    assert vars(add_pl.get_parser().parse_args([*words, option, "1"]))[option[2:]] == 1
    with pytest.raises(SystemExit):
        add_pl.get_parser().parse_args([*words, option, "0"])
    assert f"argument {option}: 0 is not at least 1" in capsys.readouterr().err


def test_the_model_comes_from_one_place(capsys) -> None:
    words = ["--asr_exp", ".", "--archive", "."]
    with pytest.raises(SystemExit):
        add_pl.get_parser().parse_args(words)
    assert "not allowed with argument" in capsys.readouterr().err


def test_the_ratio_is_that_of_a_schedule_without_settings() -> None:
    """The parser does not import it: that would import torch."""
    default = add_pl.get_parser().get_default("unlabeled_steps")
    assert default == Schedule.unlabeled_steps
