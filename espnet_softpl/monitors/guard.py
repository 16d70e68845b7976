"""The collapse guard: watches the pseudo-labels, and tells when to warn or step in.

What is healthy depends on tokens, language and model, so levels are judged against the
base model's, the means of the first unlabeled batches. None needs a transcript.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from espnet_softpl.core import ranges
from espnet_softpl.core.registry import Registry, build_from_conf, did_you_mean
from espnet_softpl.monitors import statistics

ACTIONS = ("warn", "stop", "back_off")
HISTORY = 2000  # Observations kept for the plot.
NO_LIMIT = ("a finite number", lambda value: True)
RANGES = {
    "lowest": ("in [0, 1)", lambda value: 0.0 <= value < 1.0),
    "highest": ("greater than 1", lambda value: value > 1.0),
    "rise": ("greater than 0", lambda value: value > 0.0),
}


@dataclasses.dataclass(frozen=True)
class Limits:
    """What is allowed for one monitor; None if there is no such limit.

    The strictest limit of a side counts. Ratios do not apply if the reference, the
    base model's level, is 0 or below.
    """

    lowest: float | None = None  # Least ratio of the level to the reference, in [0, 1).
    highest: float | None = None  # Greatest ratio to it, greater than 1.
    below: float | None = None  # Least level, whatever the reference.
    above: float | None = None  # Greatest level, whatever the reference.
    rise: float | None = None  # Greatest difference from the reference, > 0.

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            words, is_allowed = RANGES.get(name, NO_LIMIT)
            if value is not None and not (
                ranges.is_finite(value) and is_allowed(value)
            ):
                raise ValueError(f"{name} must be {words}, or null, got {value!r}")
        if None not in (self.below, self.above) and not self.below < self.above:
            raise ValueError(
                f"below must be less than above, got {self.below!r} and {self.above!r}"
            )

    def bounds(
        self, reference: float, slack: float = 0.0
    ) -> tuple[tuple[float, str], tuple[float, str]]:
        """Return the least and the greatest allowed level, each with words for it.

        Relative limits are at least `slack` away from the reference.
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


class Guarded(NamedTuple):
    """What the guard makes of a statistic; forms are keys of `diagnosis.FORMS`."""

    limits: Limits  # Its default limits.
    low: str = ""  # The form of collapse that a low level is a sign of.
    high: str = ""  # The same of a high level.


# Set on runs of the mini corpus, healthy and collapsing: docs/dev/collapse_study.md.
GUARDED = {
    # The first to move: falls before the errors rise when labels flatten, rises towards
    # all blank. Hard labels that still improve move it by +25 or -6 %. The ratio means
    # little if blank is best at most frames, as with long tokens: hence `above`.
    statistics.BLANK_SHARE: Guarded(
        Limits(lowest=0.9, highest=1.5, above=0.97), "flattening", "all_blank"
    ),
    # Flattening doubles it; hard labels that still improve raise it by up to a half.
    statistics.FRAME_ENTROPY: Guarded(Limits(highest=1.6), high="flattening"),
    # It hardly rises when labels flatten: an upper limit would say nothing.
    statistics.MEAN_ENTROPY: Guarded(Limits(lowest=0.7), low="few_tokens"),
    # A healthy run stays within a tenth of the base model.
    statistics.MUTUAL_INFORMATION: Guarded(Limits(lowest=0.8), low="constant"),
    # Batches of fast or slow speech differ by less than this once averaged.
    statistics.LENGTH_RATIO: Guarded(
        Limits(lowest=0.7, highest=1.4), "all_blank", "flattening"
    ),
    # Some recordings are silent; the base model's level may be 0, which has no ratio.
    statistics.EMPTY_SHARE: Guarded(Limits(rise=0.2), high="all_blank"),
    statistics.VOCABULARY: Guarded(Limits(lowest=0.7), low="few_tokens"),
    # The student gets augmented audio, and may outgrow a slow teacher.
    statistics.DISAGREEMENT: Guarded(Limits(rise=0.3), high="drift"),
}
DEFAULT_LIMITS = {statistic.name: limits for statistic, (limits, *_) in GUARDED.items()}
MONITORS = tuple(DEFAULT_LIMITS)


class Breach(NamedTuple):
    """A monitor beyond its limit."""

    monitor: str
    level: float  # The moving average, or the value itself if that is infinite.
    reference: float  # NaN if it is not yet known.
    limit: str  # As a level and in words.
    side: str  # `low`, `high` or `infinite`.


class Alarm(NamedTuple):
    """What the guard says when a monitor has been beyond its limit for long enough."""

    step: int
    number: int  # Alarms so far, this one included.
    breaches: tuple[Breach, ...]  # What raised it, then older ones that last.


def broken_alarm(step: int, number: int, what: str) -> Alarm:
    """Make the alarm of weights that are not finite; `what` names them."""
    breach = Breach(what, math.nan, math.nan, "a finite number", "infinite")
    return Alarm(int(step), number, (breach,))


@dataclasses.dataclass
class _Track:
    """What the guard remembers of one monitor."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0
    spread: float = math.nan  # Standard deviation of what made the reference.
    reference: float = math.nan
    average: float = math.nan
    level: float = math.nan  # The average, or an infinite value kept out of it.
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


class Guard:
    """Judge the monitors of unlabeled batches (`pl_guard: warn | stop | back_off`).

    A monitor's level is an exponential moving average that starts at the reference.
    With a label cache, an unlabeled step is a mini-batch that is labeled for it.
    The average and all limits are our own choice: the paper
    (https://arxiv.org/abs/2211.06007) reports collapse and gives no detector.

    >>> alarm = Guard("stop", window=20).observe(step, statistics)

    Args:
        action: What the trainer does at an alarm: `warn` reports it, `stop` ends
            training, `back_off` returns to a healthy snapshot and lowers the weight
            of the unlabeled loss.
        reference_steps: Known values that make a monitor's reference, at least 1.
        window: Time constant of the moving average in unlabeled steps, at least 1; 1
            judges every batch by itself.
        deviations: Standard errors by which a level must at least differ from the
            reference before a ratio or a rise counts, at least 0: what batches differ
            by anyway is no drift.
        patience: Unlabeled steps in a row beyond a limit for an alarm, at least 1.
        lower_weight: Factor on the unlabeled loss for each back-off, in [0, 1].
        max_back_offs: Back-offs after which there is no use in another, at least 1.
        on_alarm: A shell command that the first process runs at each alarm, such as
            one that sends a message; the environment has the alarm's words as
            PL_ALARM and its report as PL_REPORT. It has a minute; if it fails, the
            log says so and training goes on.
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
        on_alarm: str | None = None,
        limits: Mapping[str, Mapping[str, float | None]] | None = None,
    ) -> None:
        self.action = ranges.choice("action", action, ACTIONS)
        self.reference_steps = ranges.at_least("reference_steps", reference_steps, 1)
        self.window = ranges.at_least("window", window, 1)
        self.deviations = ranges.not_negative("deviations", deviations)
        self.patience = ranges.at_least("patience", patience, 1)
        self.lower_weight = ranges.fraction("lower_weight", lower_weight)
        self.max_back_offs = ranges.at_least("max_back_offs", max_back_offs, 1)
        if not (on_alarm is None or isinstance(on_alarm, str) and on_alarm.strip()):
            raise ValueError(f"on_alarm must be a shell command, got {on_alarm!r}")
        self.on_alarm = on_alarm
        self.limits = _merge_limits({} if limits is None else limits)
        self.alarms = 0
        self.back_offs = 0
        self._tracks = {name: _Track() for name in MONITORS}
        # The step, and the value of each monitor.
        self._history: deque[tuple[int, tuple[float, ...]]] = deque(maxlen=HISTORY)

    def observe(self, step: int, monitors: Mapping[str, float]) -> Alarm | None:
        """Take in the monitors of one unlabeled batch, by statistic name.

        NaN and missing values are skipped, an infinite one is beyond its limit. A
        monitor raises an alarm once, then is silent until it has been back within.
        """
        values = tuple(float(monitors.get(name, math.nan)) for name in MONITORS)
        self._history.append((step, values))
        raised = []
        for (name, track), value in zip(self._tracks.items(), values):
            if math.isnan(value):
                continue
            track.follow(value, self.reference_steps, self.window)
            breach = self._judge(name)
            track.streak = 0 if breach is None else track.streak + 1
            track.reported &= breach is not None
            if track.streak >= self.patience and not track.reported:
                raised.append(breach)
        if not raised:
            return None
        # A resumed run may have other limits, and no breach of what was reported.
        lasting = [self._judge(n) for n, t in self._tracks.items() if t.reported]
        for breach in raised:
            self._tracks[breach.monitor].reported = True
        self.alarms += 1
        return Alarm(int(step), self.alarms, (*raised, *filter(None, lasting)))

    def note_broken(self, step: int, what: str) -> Alarm:
        """Raise the alarm of weights that are not finite: nothing can be learned."""
        self.alarms += 1
        return broken_alarm(step, self.alarms, what)

    def _judge(self, name: str) -> Breach | None:
        """Compare the level that a monitor has now with its limits."""
        level, reference = self.level(name), self.reference(name)
        if math.isinf(level):
            return Breach(name, level, reference, "a finite number", "infinite")
        (low, low_words), (high, high_words) = self._bounds(name)
        if level < low:
            return Breach(name, level, reference, f"{low:.3g} ({low_words})", "low")
        if level > high:
            return Breach(name, level, reference, f"{high:.3g} ({high_words})", "high")
        return None

    def _bounds(self, name: str) -> tuple[tuple[float, str], tuple[float, str]]:
        """Return the allowed levels in words, as far apart as levels are by chance."""
        track, slack = self._tracks[name], 0.0
        if not math.isnan(track.spread):
            # Variance of an average with that time constant, and of the mean.
            share = 1.0 / (2.0 * self.window - 1.0) + 1.0 / self.reference_steps
            slack = self.deviations * track.spread * math.sqrt(share)
        return self.limits[name].bounds(track.reference, slack)

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
        """Count a back-off; the monitors start again from the base model's level."""
        self.back_offs += 1
        for track in self._tracks.values():
            track.average = track.level = track.reference
            track.streak, track.reported = 0, False

    def level(self, monitor: str) -> float:
        """Return a monitor's level now; NaN if it is not yet known."""
        return self._tracks[monitor].level

    def reference(self, monitor: str) -> float:
        """Return the base model's level of a monitor; NaN if it is not yet known."""
        return self._tracks[monitor].reference

    def bounds(self, monitor: str) -> tuple[float, float]:
        """Return a monitor's least and greatest allowed level, infinite for none."""
        (low, _), (high, _) = self._bounds(monitor)
        return low, high

    def history(self) -> tuple[list[int], dict[str, list[float]]]:
        """Return the latest steps, at most `HISTORY`, and each monitor's raw values."""
        rows = [row for _, row in self._history]
        values = {n: [row[i] for row in rows] for i, n in enumerate(MONITORS)}
        return [step for step, _ in self._history], values

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
        """Restore what `state_dict` returned; the settings stay those of this guard."""
        self.alarms = state["alarms"]
        self.back_offs = state["back_offs"]
        self._tracks = {name: _Track(**state["tracks"][name]) for name in MONITORS}
        rows = zip(*(state["values"][name] for name in MONITORS))
        self._history = deque(zip(state["steps"], rows), maxlen=HISTORY)


REGISTRY: Registry[Guard] = Registry("pl_guard", Guard, optional=True)
for _action in ACTIONS:
    REGISTRY.register(_action)(functools.partial(Guard, _action))
register, available, build = REGISTRY.register, REGISTRY.available, REGISTRY.build


def _merge_limits(changes: Any) -> dict[str, Limits]:
    """Change the default limits as the settings say."""
    if not isinstance(changes, Mapping):
        raise ValueError(f"limits must be a mapping of monitors, got {changes!r}")
    merged = dict(DEFAULT_LIMITS)
    for name, values in changes.items():
        if name not in merged:
            raise ValueError(
                f"limits: unknown monitor {name!r}.{did_you_mean(name, MONITORS)} "
                f"Allowed: {', '.join(MONITORS)}."
            )
        if not isinstance(values, Mapping):
            raise ValueError(f"limits: {name} must be a mapping, got {values!r}")
        conf = {**dataclasses.asdict(merged[name]), **values}
        merged[name] = build_from_conf(Limits, conf, f"limits: {name}")
    return merged
