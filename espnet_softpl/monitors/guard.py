"""The collapse guard: watches the pseudo-labels, and tells when to warn or step in.

The monitors are scalars of one unlabeled batch each, the `pl_*` statistics that need
no transcript. What is healthy depends on the tokens, the language and the model, so
that levels are judged against those of the seed model: the reference is the mean of
the first unlabeled batches. The guard does not touch the model; the trainer asks it.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from espnet_softpl.core.ranges import at_least, is_finite
from espnet_softpl.core.registry import Registry, did_you_mean

ACTIONS = ("warn", "stop", "back_off")


HISTORY = 2000  # Observations kept for the plot.


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is legal for one monitor; None where there is no such limit.

    The strictest limit of a side counts. Ratios do not apply where the reference is 0
    or below.

    Attributes:
        lowest: Least ratio of the level to the reference, in [0, 1).
        highest: Greatest ratio of the level to the reference, greater than 1.
        below: Least level, whatever the reference, in the monitor's unit.
        above: Greatest level, whatever the reference, in the monitor's unit.
        rise: Greatest difference of the level from the reference, greater than 0.

    Raises:
        ValueError: A value out of its range, or below is not less than above.
    """

    lowest: float | None = None
    highest: float | None = None
    below: float | None = None
    above: float | None = None
    rise: float | None = None

    def __post_init__(self) -> None:
        legal = {
            "lowest": ("in [0, 1)", lambda value: 0.0 <= value < 1.0),
            "highest": ("greater than 1", lambda value: value > 1.0),
            "below": ("a finite number", lambda value: True),
            "above": ("a finite number", lambda value: True),
            "rise": ("greater than 0", lambda value: value > 0.0),
        }
        for name, (what, is_legal) in legal.items():
            value = getattr(self, name)
            if value is not None and not (is_finite(value) and is_legal(value)):
                raise ValueError(f"{name} must be {what}, or null, got {value!r}")
        if None not in (self.below, self.above) and not self.below < self.above:
            raise ValueError(
                f"below must be less than above, got {self.below!r} and {self.above!r}"
            )

    def lower(self, reference: float, slack: float = 0.0) -> tuple[float, str]:
        """Return the least legal level and the words for it.

        Args:
            reference: The seed model's level.
            slack: Least distance of a relative limit from the reference, at least 0.

        Returns:
            The level, -inf for none, and the limit that it comes from.
        """
        found = [(-math.inf, "none")]
        if self.lowest is not None and reference > 0:
            limit = min(self.lowest * reference, reference - slack)
            found.append((limit, f"lowest: {self.lowest:g} times the seed's"))
        if self.below is not None:
            found.append((self.below, f"below: {self.below:g}"))
        return max(found)

    def upper(self, reference: float, slack: float = 0.0) -> tuple[float, str]:
        """Return the greatest legal level and the words for it.

        Args:
            reference: The seed model's level.
            slack: Least distance of a relative limit from the reference, at least 0.

        Returns:
            The level, inf for none, and the limit that it comes from.
        """
        found = [(math.inf, "none")]
        if self.highest is not None and reference > 0:
            limit = max(self.highest * reference, reference + slack)
            found.append((limit, f"highest: {self.highest:g} times the seed's"))
        if self.above is not None:
            found.append((self.above, f"above: {self.above:g}"))
        if self.rise is not None:
            limit = reference + max(self.rise, slack)
            found.append((limit, f"rise: {self.rise:g} over the seed"))
        return min(found)


# Set on runs of the mini corpus, healthy and collapsing: see docs/collapse.md.
DEFAULT_LIMITS: dict[str, Limits] = {
    # Flattening doubles it; hard labels that still improve raise it by up to a half.
    "pl_frame_entropy": Limits(highest=1.6),
    # Few tokens take all of the frames. It hardly rises when labels flatten, so that
    # an upper limit would say nothing.
    "pl_mean_entropy": Limits(lowest=0.7),
    # 0 is the same distribution at every frame, sharp or flat. A healthy run stays
    # within a tenth of the seed.
    "pl_mutual_information": Limits(lowest=0.8),
    # The first to move: it falls before the errors rise when labels flatten, and rises
    # towards all blank. Hard labels that still improve raise it by a quarter, and
    # lower it by no more than 6 %. The ratio means little for a seed that says blank
    # at most frames, as with long tokens: hence `above`.
    "pl_blank_share": Limits(lowest=0.9, highest=1.5, above=0.97),
    # Some recordings are silent, in the seed too; its level may be 0, which has no
    # ratio.
    "pl_empty_share": Limits(rise=0.2),
    # Labels that vanish, or that stutter between tokens. Batches of fast or slow
    # speech differ by less than this once averaged.
    "pl_length_ratio": Limits(lowest=0.7, highest=1.4),
    # Transcripts of ever the same tokens, however many there are of them.
    "pl_vocabulary": Limits(lowest=0.7),
    # Never 0, for the student hears augmented audio; a student that outgrows a slow
    # teacher may differ at some more frames.
    "pl_disagreement": Limits(rise=0.3),
}


MONITORS = tuple(DEFAULT_LIMITS)


class Breach(NamedTuple):
    """A monitor beyond its limit.

    Attributes:
        monitor: The statistic's name.
        level: Its moving average, or the value itself where that is infinite.
        reference: The seed model's level; NaN where it is not yet known.
        limit: The limit in words, with the level that it stands for.
        side: `low`, `high`, or `infinite`.
    """

    monitor: str
    level: float
    reference: float
    limit: str
    side: str


class Alarm(NamedTuple):
    """What the guard says when a monitor has been beyond its limit for long enough.

    Attributes:
        step: The training step.
        number: Alarms so far, this one included.
        breaches: What raised the alarm, then those of earlier alarms that last.
    """

    step: int
    number: int
    breaches: tuple[Breach, ...]


@dataclasses.dataclass
class _Track:
    """What the guard remembers of one monitor.

    `spread` is the standard deviation of the values that made the reference; `level`
    is what was judged last: the average, or an infinite value, which must not
    enter the average for it would stay there.
    """

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    spread: float = math.nan
    reference: float = math.nan
    average: float = math.nan
    level: float = math.nan
    streak: int = 0
    reported: bool = False

    def follow(self, value: float, reference_steps: int, window: int) -> None:
        """Take in a value that is not NaN: first the reference, then the average."""
        if math.isinf(value):
            self.level = value
            return
        if math.isnan(self.reference):
            self.count += 1
            self.total += value
            self.squares += value * value
            if self.count >= reference_steps:
                self.reference = self.average = self.total / self.count
                variance = self.squares / self.count - self.reference**2
                self.spread = math.sqrt(max(0.0, variance))
        else:
            self.average += (value - self.average) / window
        self.level = self.average

    def rewind(self) -> None:
        """Go back to the seed model's level."""
        self.average = self.level = self.reference
        self.streak, self.reported = 0, False


class Guard:
    """Judge the monitors of unlabeled batches (`pl_guard: warn | stop | back_off`).

    A monitor's level is an exponential moving average that starts at the reference.
    The average is our own choice, as are all limits: the paper
    (https://arxiv.org/abs/2211.06007) reports collapse and gives no detector.

    Args:
        action: What the trainer does at an alarm: `warn` reports it, `stop` ends
            training, `back_off` returns to a healthy snapshot and lowers the weight
            of the unlabeled loss.
        reference_steps: Known values of a monitor that make its reference, at
            least 1.
        window: Time constant of the moving average in unlabeled steps, at least 1; 1
            judges every batch by itself.
        deviations: Standard errors by which a level must at least differ from the
            reference before a ratio or a rise counts, at least 0: what batches differ
            by anyway is no drift.
        patience: Unlabeled steps in a row beyond a limit that raise an alarm, at
            least 1.
        lower_weight: Factor on the unlabeled loss for each back-off, in [0, 1].
        max_back_offs: Back-offs after which there is no use in another, at least 1.
        limits: What to change in `DEFAULT_LIMITS`: by monitor, `Limits` attributes by
            name; None takes a limit away.

    Raises:
        ValueError: An unknown action, monitor or limit, or a value out of its range.
    """

    def __init__(
        self,
        action: str = "warn",
        reference_steps: int = 20,
        window: int = 10,
        deviations: float = 3.0,
        patience: int = 5,
        lower_weight: float = 0.5,
        max_back_offs: int = 3,
        limits: Mapping[str, Mapping[str, float | None]] | None = None,
    ) -> None:
        if action not in ACTIONS:
            raise ValueError(
                f"unknown action {action!r}.{did_you_mean(action, ACTIONS)} "
                f"Legal: {', '.join(ACTIONS)}."
            )
        if not (is_finite(lower_weight) and 0.0 <= lower_weight <= 1.0):
            raise ValueError(f"lower_weight must be in [0, 1], got {lower_weight!r}")
        self.action = action
        self.reference_steps = at_least("reference_steps", reference_steps, 1)
        self.window = at_least("window", window, 1)
        if not (is_finite(deviations) and deviations >= 0.0):
            raise ValueError(f"deviations must be at least 0, got {deviations!r}")
        self.deviations = float(deviations)
        self.patience = at_least("patience", patience, 1)
        self.lower_weight = float(lower_weight)
        self.max_back_offs = at_least("max_back_offs", max_back_offs, 1)
        self.limits = _merge_limits(limits)
        self.alarms = 0
        self.back_offs = 0
        self._tracks = {name: _Track() for name in MONITORS}
        self._history: collections.deque[tuple[int, tuple[float, ...]]]
        self._history = collections.deque(maxlen=HISTORY)

    def observe(self, step: int, monitors: Mapping[str, float]) -> Alarm | None:
        """Take in the monitors of one unlabeled batch.

        A monitor raises an alarm once, then keeps silent until it has been back
        within its limits.

        Args:
            step: The training step.
            monitors: Values by statistic name. NaN and missing ones are skipped, an
                infinite one is beyond its limit; other statistics are not looked at.

        Returns:
            An alarm, or None.
        """
        values = tuple(float(monitors.get(name, math.nan)) for name in MONITORS)
        self._history.append((step, values))
        raised = []
        for name, value in zip(MONITORS, values):
            if math.isnan(value):
                continue
            track = self._tracks[name]
            track.follow(value, self.reference_steps, self.window)
            breach = self._judge(name)
            if breach is None:
                track.streak, track.reported = 0, False
                continue
            track.streak += 1
            if track.streak >= self.patience and not track.reported:
                raised.append(breach)
        if not raised:
            return None
        lasting = [self._judge(n) for n in MONITORS if self._tracks[n].reported]
        for breach in raised:
            self._tracks[breach.monitor].reported = True
        self.alarms += 1
        return Alarm(int(step), self.alarms, (*raised, *lasting))

    def _judge(self, name: str) -> Breach | None:
        """Compare the level that a monitor has now with its limits."""
        level, reference = self._tracks[name].level, self._tracks[name].reference
        if math.isinf(level):
            return Breach(name, level, reference, "a finite number", "infinite")
        slack = self._slack(name)
        low, low_text = self.limits[name].lower(reference, slack)
        high, high_text = self.limits[name].upper(reference, slack)
        if level < low:
            return Breach(name, level, reference, f"{low:.3g} ({low_text})", "low")
        if level > high:
            return Breach(name, level, reference, f"{high:.3g} ({high_text})", "high")
        return None

    @property
    def healthy(self) -> bool:
        """Whether no monitor is beyond its limit: a snapshot may be taken."""
        return not any(track.streak for track in self._tracks.values())

    @property
    def weight_factor(self) -> float:
        """Factor on the unlabeled loss after the back-offs so far, in [0, 1]."""
        return self.lower_weight**self.back_offs

    @property
    def exhausted(self) -> bool:
        """Whether as many back-offs as allowed have been made."""
        return self.back_offs >= self.max_back_offs

    def note_back_off(self) -> None:
        """Take note that the trainer restored a healthy model.

        Levels start at the reference again, and every monitor can raise an alarm.
        """
        self.back_offs += 1
        for track in self._tracks.values():
            track.rewind()

    def level(self, monitor: str) -> float:
        """Return a monitor's level, NaN where the reference is not yet known."""
        return self._tracks[monitor].level

    def reference(self, monitor: str) -> float:
        """Return the seed model's level of a monitor, NaN where not yet known."""
        return self._tracks[monitor].reference

    def bounds(self, monitor: str) -> tuple[float, float]:
        """Return the least and the greatest legal level of a monitor, or -inf, inf."""
        reference, slack = self.reference(monitor), self._slack(monitor)
        limits = self.limits[monitor]
        return limits.lower(reference, slack)[0], limits.upper(reference, slack)[0]

    def _slack(self, monitor: str) -> float:
        """Return how far the average may be from the reference by chance."""
        spread = self._tracks[monitor].spread
        if math.isnan(spread):
            return 0.0
        # Variance of an exponential average with this time constant, and of the mean.
        share = 1.0 / (2.0 * self.window - 1.0) + 1.0 / self.reference_steps
        return self.deviations * spread * math.sqrt(share)

    def history(self) -> tuple[list[int], dict[str, list[float]]]:
        """Return the latest observations, at most `HISTORY`.

        Returns:
            The steps, and for each monitor as many raw values, NaN where unknown.
        """
        steps = [step for step, _ in self._history]
        columns = zip(*(values for _, values in self._history))
        values = dict.fromkeys(MONITORS, ()) | dict(zip(MONITORS, columns))
        return steps, {name: list(column) for name, column in values.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, plain numbers and containers only."""
        steps, values = self.history()
        return {
            "alarms": self.alarms,
            "back_offs": self.back_offs,
            "tracks": {n: dataclasses.asdict(t) for n, t in self._tracks.items()},
            "steps": steps,
            "values": values,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state; the settings stay those of this guard.

        Args:
            state: What `state_dict` returned.
        """
        self.alarms = state["alarms"]
        self.back_offs = state["back_offs"]
        self._tracks = {name: _Track(**state["tracks"][name]) for name in MONITORS}
        rows = zip(*(state["values"][name] for name in MONITORS))
        self._history = collections.deque(zip(state["steps"], rows), maxlen=HISTORY)


REGISTRY: Registry[Guard] = Registry("pl_guard", Guard, optional=True)
for _action in ACTIONS:
    REGISTRY.register(_action)(functools.partial(Guard, _action))

register = REGISTRY.register
available = REGISTRY.available
build = REGISTRY.build


def _merge_limits(given: Any) -> dict[str, Limits]:
    """Change the default limits as the settings say."""
    merged = dict(DEFAULT_LIMITS)
    keys = [field.name for field in dataclasses.fields(Limits)]
    if not isinstance(given, Mapping | None):
        raise ValueError(f"limits must be a mapping of monitors, got {given!r}")
    for name, changes in (given or {}).items():
        if name not in merged:
            raise ValueError(
                f"limits: unknown monitor {name!r}.{did_you_mean(name, MONITORS)} "
                f"Legal: {', '.join(MONITORS)}."
            )
        if not isinstance(changes, Mapping):
            raise ValueError(
                f"limits: {name} must be a mapping with keys from {', '.join(keys)}, "
                f"got {changes!r}"
            )
        for key in changes:
            if key not in keys:
                raise ValueError(
                    f"limits: {name}: unknown limit {key!r}.{did_you_mean(key, keys)} "
                    f"Legal: {', '.join(keys)}."
                )
        try:
            merged[name] = dataclasses.replace(merged[name], **changes)
        except ValueError as error:
            raise ValueError(f"limits: {name}: {error}") from error
    return merged
