"""What a parser answers to words that it does not know."""

from __future__ import annotations

import pytest
from espnet2.utils import config_argparse

from espnet_softpl.core.parsing import Answering


class OfFiles(Answering, config_argparse.ArgumentParser):
    """As the training has it: ESPnet's parser of files behind ours."""


def parser(cls: type[Answering] = Answering) -> Answering:
    made = cls(prog="x")
    made.add_argument("--pl_criterion")
    made.add_argument("--train-words", nargs="*")
    made.add_argument("--form", choices=["block", "interleaved"])
    return made


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--pl_criterion", "a"], "a"),
        (["--pl-criterion", "a"], "a"),
        (["--pl-criterion=a-b_c=d"], "a-b_c=d"),
        (["--pl-crit", "a"], "a"),
        (["--pl_criterion", "-1"], "-1"),
        (["--pl_criterion", "--no option"], "--no option"),
    ],
)
def test_options_are_taken_with_either_dash(words, value) -> None:
    assert parser().parse_args(words).pl_criterion == value


def test_either_dash_is_the_other_way_round_too() -> None:
    assert parser().parse_args(["--train_words", "a_b", "c"]).train_words == [
        "a_b",
        "c",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--pl_criteron", "a"],
            "unknown option '--pl_criteron'. Did you mean '--pl_c",
        ),
        (["--qqq=3"], "unknown option '--qqq'. See --help."),
        (["--form", "blok"], "Did you mean 'block'?"),
        (["a"], "unrecognized arguments: a"),
        (["--", "--pl_criteron"], "unrecognized arguments: "),
    ],
)
def test_the_nearest_is_named_in_a_line(words, message, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        parser().parse_args(words)
    error = capsys.readouterr().err
    assert error.startswith("x: error: ") and message in error
    assert error.count("\n") == 1


def test_a_key_of_a_file_is_answered_as_an_option(tmp_path, capsys) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("pl_criterion: a\n")
    words = ["--config", str(file)]
    assert parser(OfFiles).parse_args(words).pl_criterion == "a"
    file.write_text("pl_criteron: a\n")
    with pytest.raises(SystemExit, match="2"):
        parser(OfFiles).parse_args(words)
    message = "unknown key 'pl_criteron'. Did you mean 'pl_criterion'?"
    assert capsys.readouterr().err == f"x: error: {file}: {message}\n"
