"""Which levels are allowed, and which limits are refused."""

from __future__ import annotations

import math

import pytest

from espnet_softpl.monitors.limits import Limits


def test_the_strictest_limit_counts() -> None:
    limits = Limits(lowest=0.5, highest=2.0, below=0.3, above=3.0, rise=0.5)
    low, high = limits.bounds(1.0)
    assert low == (0.5, "lowest: 0.5 times the base model's")
    assert high == (1.5, "rise: 0.5 over the base model")
    assert limits.bounds(0.4)[0] == (0.3, "below: 0.3")
    assert limits.bounds(0.2)[1] == (0.4, "highest: 2 times the base model's")
    assert limits.bounds(9.0)[1] == (3.0, "above: 3")
    assert Limits().bounds(1.0) == ((-math.inf, "none"), (math.inf, "none"))


def test_ratios_need_a_reference_above_0() -> None:
    limits = Limits(lowest=0.5, highest=2.0, rise=0.25)
    assert limits.bounds(0.0) == (
        (-math.inf, "none"),
        (0.25, "rise: 0.25 over the base model"),
    )
    assert limits.bounds(math.nan) == ((-math.inf, "none"), (math.inf, "none"))


def test_slack_widens_what_is_relative() -> None:
    (low, _), (high, _) = Limits(lowest=0.9, highest=1.1).bounds(1.0, slack=0.5)
    assert (low, high) == (0.5, 1.5)
    (low, _), (high, _) = Limits(below=0.9, above=1.1).bounds(1.0, slack=0.5)
    assert (low, high) == (0.9, 1.1)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"lowest": 1.0}, r"lowest must be in \[0, 1\), or null, got 1.0"),
        ({"highest": 1.0}, "highest must be greater than 1"),
        ({"rise": 0.0}, "rise must be greater than 0"),
        ({"below": math.nan}, "below must be a finite number"),
        ({"below": 2.0, "above": 1.0}, "below must be less than above"),
    ],
)
def test_limits_out_of_range_are_refused(limits, message) -> None:
    with pytest.raises(ValueError, match=message):
        Limits(**limits)
