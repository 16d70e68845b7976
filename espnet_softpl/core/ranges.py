"""Legal ranges of settings, refused with the name, the value and the range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def is_finite(value: Any) -> bool:
    """Tell whether a value is a finite number; a bool is none."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def positive(name: str, value: Any) -> float:
    """Return a finite number greater than 0, or raise ValueError."""
    if not (is_finite(value) and value > 0):
        raise ValueError(f"{name} must be a finite number > 0, got {value!r}")
    return float(value)


def not_negative(name: str, value: Any) -> float:
    """Return a finite number of at least 0, or raise ValueError."""
    if not (is_finite(value) and value >= 0):
        raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
    return float(value)


def finite(name: str, value: Any) -> float:
    """Return a finite number, or raise ValueError."""
    if not is_finite(value):
        raise ValueError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def fraction(name: str, value: Any) -> float:
    """Return a number in [0, 1], or raise ValueError."""
    if not (is_finite(value) and 0.0 <= value <= 1.0):
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")
    return float(value)


def at_least(name: str, value: Any, low: int) -> int:
    """Return an integer of at least `low`, or raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} must be an integer >= {low}, got {value!r}")
    return value


def choice(name: str, value: Any, legal: Sequence[str]) -> str:
    """Return one of the legal words, or raise ValueError."""
    if value not in legal:
        raise ValueError(f"{name} must be one of {', '.join(legal)}, got {value!r}")
    return value
