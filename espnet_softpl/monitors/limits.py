"""The levels that the collapse guard allows a monitor to have."""

from __future__ import annotations

import dataclasses
import math

from espnet_softpl.core.ranges import is_finite

RANGES = {
    "lowest": ("in [0, 1)", lambda value: 0.0 <= value < 1.0),
    "highest": ("greater than 1", lambda value: value > 1.0),
    "rise": ("greater than 0", lambda value: value > 0.0),
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is allowed for one monitor; None if there is no such limit.

    The strictest limit of a side counts. Ratios do not apply if the reference, the
    base model's level, is 0 or below. A value out of its range raises ValueError.
    """

    lowest: float | None = None  # Least ratio of the level to the reference, in [0, 1).
    highest: float | None = None  # Greatest ratio to it, greater than 1.
    below: float | None = None  # Least level, whatever the reference.
    above: float | None = None  # Greatest level, whatever the reference.
    rise: float | None = None  # Greatest difference from the reference, > 0.

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            words, is_allowed = RANGES.get(name, ("a finite number", lambda _: True))
            if value is not None and not (is_finite(value) and is_allowed(value)):
                raise ValueError(f"{name} must be {words}, or null, got {value!r}")
        if None not in (self.below, self.above) and not self.below < self.above:
            raise ValueError(
                f"below must be less than above, got {self.below!r} and {self.above!r}"
            )

    def bounds(
        self, reference: float, slack: float = 0.0
    ) -> tuple[tuple[float, str], tuple[float, str]]:
        """Return the least and the greatest allowed level, each with words for it.

        Relative limits are at least `slack` away from the reference; a side without a
        limit is infinite.
        """
        low, high = [(-math.inf, "none")], [(math.inf, "none")]
        if self.lowest is not None and reference > 0:
            level = min(self.lowest * reference, reference - slack)
            low.append((level, f"lowest: {self.lowest:g} times the base model's"))
        if self.highest is not None and reference > 0:
            level = max(self.highest * reference, reference + slack)
            high.append((level, f"highest: {self.highest:g} times the base model's"))
        if self.below is not None:
            low.append((self.below, f"below: {self.below:g}"))
        if self.above is not None:
            high.append((self.above, f"above: {self.above:g}"))
        if self.rise is not None:
            level = reference + max(self.rise, slack)
            high.append((level, f"rise: {self.rise:g} over the base model"))
        return max(low), min(high)
