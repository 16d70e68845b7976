"""Allowed ranges of settings, refused with the name, the value and the range."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any


class WholeEnds(float):
    """A value between two integers, which `build_from_conf` rounds for an `int`."""


def is_finite(value: Any) -> bool:
    """Tell whether a value is a finite number; a bool is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _require(allowed: bool, name: str, value: Any, what: str) -> None:
    if not allowed:
        raise ValueError(f"{name} must be {what}, got {value!r}")


def _number(what: str, inside: Callable[[float], bool]) -> Callable[[str, Any], float]:
    """Make a function of (name, value) that returns a finite number in a range."""

    def check(name: str, value: Any) -> float:
        _require(is_finite(value) and inside(value), name, value, what)
        return float(value)

    return check


positive = _number("a finite number > 0", lambda x: x > 0)
not_negative = _number("a finite number >= 0", lambda x: x >= 0)
finite = _number("a finite number", lambda x: True)
fraction = _number("a number in [0, 1]", lambda x: 0.0 <= x <= 1.0)


def at_least(name: str, value: Any, low: int) -> int:
    """Return an integer of at least `low`, or raise ValueError."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    _require(is_integer and value >= low, name, value, f"an integer >= {low}")
    return value


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """Return one of the allowed words, or raise ValueError."""
    _require(value in allowed, name, value, f"one of {', '.join(allowed)}")
    return value
