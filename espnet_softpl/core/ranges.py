"""Allowed ranges of settings, refused with the name, the value and the range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def is_finite(value: Any) -> bool:
    """Tell whether a value is a finite number; a bool is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def _require(allowed: bool, name: str, value: Any, what: str) -> None:
    if not allowed:
        raise ValueError(f"{name} must be {what}, got {value!r}")


def positive(name: str, value: Any) -> float:
    """Return a finite number greater than 0, or raise ValueError."""
    allowed = is_finite(value) and value > 0
    _require(allowed, name, value, "a finite number > 0")
    return float(value)


def not_negative(name: str, value: Any) -> float:
    """Return a finite number of at least 0, or raise ValueError."""
    allowed = is_finite(value) and value >= 0
    _require(allowed, name, value, "a finite number >= 0")
    return float(value)


def finite(name: str, value: Any) -> float:
    """Return a finite number, or raise ValueError."""
    _require(is_finite(value), name, value, "a finite number")
    return float(value)


def fraction(name: str, value: Any) -> float:
    """Return a number in [0, 1], or raise ValueError."""
    allowed = is_finite(value) and 0.0 <= value <= 1.0
    _require(allowed, name, value, "a number in [0, 1]")
    return float(value)


def at_least(name: str, value: Any, low: int) -> int:
    """Return an integer of at least `low`, or raise ValueError."""
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    _require(is_integer and value >= low, name, value, f"an integer >= {low}")
    return value


def choice(name: str, value: Any, allowed: Sequence[str]) -> str:
    """Return one of the allowed words, or raise ValueError."""
    _require(value in allowed, name, value, f"one of {', '.join(allowed)}")
    return value
