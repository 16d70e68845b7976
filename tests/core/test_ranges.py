"""Ranges: what lies in them, and what is said of the rest."""

from __future__ import annotations

import math

import pytest

from espnet_softpl.core import ranges

NO_NUMBERS = (math.nan, math.inf, True, "1", None, [1])


@pytest.mark.parametrize(
    "check, inside, outside, what",
    [
        (ranges.positive, (1, 1e-9), (0, -1), "a finite number > 0"),
        (ranges.not_negative, (0, 2.5), (-1e-9,), "a finite number >= 0"),
        (ranges.finite, (-3, 0.0), (), "a finite number"),
        (ranges.fraction, (0, 1, 0.5), (-0.1, 1.1), r"a number in \[0, 1\]"),
    ],
)
def test_numbers(check, inside, outside, what) -> None:
    for value in inside:
        assert check("size", value) == value and type(check("size", value)) is float
    for value in (*outside, *NO_NUMBERS):
        with pytest.raises(ValueError, match=f"size must be {what}, got "):
            check("size", value)


def test_integers() -> None:
    assert ranges.at_least("n", 3, 3) == 3
    for value in (2, 3.0, *NO_NUMBERS):
        with pytest.raises(ValueError, match="n must be an integer >= 3, got "):
            ranges.at_least("n", value, 3)


def test_words() -> None:
    assert ranges.choice("kind", "a", ("a", "b")) == "a"
    with pytest.raises(ValueError, match="kind must be one of a, b, got 'c'"):
        ranges.choice("kind", "c", ("a", "b"))
