"""Options that several commands have: their defaults are shown, ranges are kept."""

from __future__ import annotations

import argparse

import pytest

from espnet_softpl.commands.arguments import (
    add_model_arguments,
    at_least,
    new_parser,
    share,
)


def test_numbers_out_of_range() -> None:
    assert (share("0"), share("1"), at_least(0)("0"), at_least(2)("7")) == (0, 1, 0, 7)
    for parse, text in ((share, "1.1"), (share, "nan"), (at_least(2), "1")):
        with pytest.raises(argparse.ArgumentTypeError, match=f"{text} is not"):
            parse(text)
    with pytest.raises(ValueError):
        at_least(0)("one")


def test_help_names_defaults_once() -> None:
    parser = new_parser("x", "First line.\n\n  Indented.")
    add_model_arguments(parser)
    parser.add_argument("--plain", help="has none")
    parser.add_argument("--told", default="a", help="the default is b")
    text = " ".join(parser.format_help().split())
    assert "First line. Indented." in text
    assert "has not (default: student)" in text and "(default: 0.5)" in text
    assert text.endswith("--plain PLAIN has none --told TOLD the default is b")
    assert parser.parse_args(["--asr_exp", "e"]).which == "student"
