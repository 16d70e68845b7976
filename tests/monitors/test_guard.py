"""The guard: fires on collapse, not on noise or progress; resumes exactly; explains."""

import dataclasses
import math
import random
from pathlib import Path

import pytest
import torch

from espnet_softpl.monitors.diagnosis import (
    SIGNS,
    diagnose,
    explain,
)
from espnet_softpl.monitors.guard import (
    ACTIONS,
    DEFAULT_LIMITS,
    HISTORY,
    MONITORS,
    Alarm,
    Guard,
    Limits,
    build,
)

BASE_LEVELS = {
    "pl_frame_entropy": 0.33,
    "pl_mean_entropy": 2.70,
    "pl_mutual_information": 2.37,
    "pl_blank_share": 0.22,
    "pl_empty_share": 0.01,
    "pl_length_ratio": 1.0,
    "pl_vocabulary": 18.0,
    "pl_disagreement": 0.10,
}
# Standard deviation from batch to batch, as a ratio to the level.
NOISE = dict.fromkeys(MONITORS, 0.10) | {
    "pl_frame_entropy": 0.20,
    "pl_empty_share": 3.0,
    "pl_disagreement": 0.40,
}


def noisy(levels: dict, rng: random.Random) -> dict[str, float]:
    return {
        name: max(0.0, level * (1 + NOISE[name] * rng.gauss(0, 1)))
        for name, level in levels.items()
    }


def moving(end: dict[str, float], start: int, steps: int, step: int) -> dict:
    """Move from the base model's levels to others, linearly over some steps."""
    done = min(1.0, max(0.0, (step - start) / steps))
    return {
        name: level + done * (end.get(name, level) - level)
        for name, level in BASE_LEVELS.items()
    }


def run(guard: Guard, levels, num_steps: int, seed: int = 0) -> list[Alarm]:
    rng = random.Random(seed)
    alarms = [guard.observe(s, noisy(levels(s), rng)) for s in range(num_steps)]
    return [alarm for alarm in alarms if alarm is not None]


def fed(guard: Guard, monitor: str, values) -> list[Alarm | None]:
    return [guard.observe(step, {monitor: value}) for step, value in enumerate(values)]


def through_a_file(state: dict, path: Path) -> dict:
    torch.save(state, path)
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("seed", range(8))
def test_healthy_noise_raises_nothing(seed) -> None:
    guard = Guard()
    assert run(guard, lambda step: BASE_LEVELS, 2000, seed) == []
    assert guard.alarms == 0


# A better model has less doubt; with hard labels on the way, more doubt at first.
@pytest.mark.parametrize("factor", [0.7, 1.3])
@pytest.mark.parametrize("seed", range(3))
def test_slow_healthy_drift_raises_nothing(factor, seed) -> None:
    end = {
        name: factor * BASE_LEVELS[name]
        for name in ("pl_frame_entropy", "pl_disagreement")
    }
    end["pl_blank_share"] = 0.26
    end["pl_length_ratio"] = 1.2
    end["pl_vocabulary"] = 15.5
    assert run(Guard(), lambda s: moving(end, 0, 1500, s), 2000, seed) == []


@pytest.mark.parametrize("start", [0, 50])
@pytest.mark.parametrize("seed", range(3))
def test_flattening_fires(start, seed) -> None:
    end = {"pl_frame_entropy": 0.80, "pl_blank_share": 0.17, "pl_mean_entropy": 2.80}
    guard = Guard()
    alarms = run(guard, lambda s: moving(end, start, 200, s), start + 250, seed)
    # The entropy itself passes its limit, 1.6 times the base model's, at start + 84,
    # and the share of blank its own at start + 132.
    assert start + 60 < alarms[0].step < start + 170
    assert diagnose(alarms[0])[0] == "flattening"
    assert not guard.healthy


@pytest.mark.parametrize(
    ("end", "form"),
    [
        (
            {
                "pl_blank_share": 0.99,
                "pl_empty_share": 0.9,
                "pl_length_ratio": 0.05,
                "pl_vocabulary": 1.5,
                "pl_mean_entropy": 0.1,
                "pl_mutual_information": 0.02,
            },
            "all_blank",
        ),
        ({"pl_vocabulary": 3.0, "pl_mean_entropy": 1.0}, "few_tokens"),
        ({"pl_mutual_information": 0.1}, "constant"),
        ({"pl_disagreement": 0.7}, "drift"),
        ({"pl_length_ratio": 2.0}, "flattening"),
    ],
)
def test_each_form_fires_and_is_named(end, form) -> None:
    alarms = run(Guard(), lambda s: moving(end, 50, 100, s), 250)
    assert alarms and 50 < alarms[0].step < 150
    assert diagnose(alarms[-1])[0] == form


def test_each_default_limit_fires_on_its_own() -> None:
    for monitor, limits in DEFAULT_LIMITS.items():
        level = BASE_LEVELS[monitor]
        (low, _), (high, _) = limits.bounds(level)
        for value in (low - 1e-3, high + 1e-3):
            if math.isfinite(value):
                guard = Guard(reference_steps=3, window=1, patience=2)
                *silent, alarm = fed(guard, monitor, [level] * 3 + [value] * 2)
                assert silent == [None] * 4
                side = "low" if value < level else "high"
                assert alarm.breaches[0][:2] == (monitor, value)
                assert (monitor, side) in SIGNS
        for value in (low + 1e-3, high - 1e-3):
            if math.isfinite(value):
                guard = Guard(reference_steps=3, window=1, patience=2)
                assert not any(fed(guard, monitor, [level] * 3 + [value] * 9))


def test_reference_average_and_patience_by_hand() -> None:
    limits = {"pl_frame_entropy": {"highest": 1.8}}
    guard = Guard("warn", 2, 4, deviations=0, patience=3, limits=limits)
    values = [1.0, 2.0, 3.0, 4.0, 4.0, 4.0, 4.0]
    levels, alarms = [], []
    for step, value in enumerate(values):
        alarms.append(guard.observe(10 * step, {"pl_frame_entropy": value}))
        levels.append(guard.level("pl_frame_entropy"))
    assert math.isnan(levels[0])
    average = expected = 1.5
    for value, level in zip(values[2:], levels[2:]):
        average += (value - average) / 4
        assert level == average
    assert guard.reference("pl_frame_entropy") == expected
    # The limit is 2.7: 1.875, 2.406, 2.805, 3.104, 3.328.
    assert alarms[:6] == [None] * 6
    breach = alarms[6].breaches[0]
    assert alarms[6][:2] == (60, 1)
    assert breach[:3] == ("pl_frame_entropy", average, 1.5)
    assert breach.limit == "2.7 (highest: 1.8 times the base model's)"


def test_what_batches_differ_by_anyway_is_no_drift() -> None:
    seed = [0.8, 1.2] * 5
    limits = {"pl_blank_share": {"lowest": 0.95, "above": None}}
    strict = Guard(reference_steps=10, window=1, deviations=0, limits=limits)
    guard = Guard(reference_steps=10, window=1, deviations=3, limits=limits)
    for one in (strict, guard):
        fed(one, "pl_blank_share", seed)
    assert strict.bounds("pl_blank_share")[0] == pytest.approx(0.95)
    # A spread of 0.2, in one value and in the mean of ten.
    slack = 3 * 0.2 * math.sqrt(1 + 1 / 10)
    assert guard.bounds("pl_blank_share") == pytest.approx((1 - slack, 1 + slack))
    steady = Guard(reference_steps=10, window=1, deviations=3, limits=limits)
    fed(steady, "pl_blank_share", [1.0] * 10)
    assert steady.bounds("pl_blank_share")[0] == pytest.approx(0.95)
    absolute = {"pl_blank_share": {"lowest": None, "highest": None, "below": 0.9}}
    floor = Guard(reference_steps=10, window=1, deviations=3, limits=absolute)
    fed(floor, "pl_blank_share", seed)
    assert floor.bounds("pl_blank_share") == (0.9, 0.97)


def test_an_interruption_restarts_the_patience() -> None:
    guard = Guard(reference_steps=1, window=1, patience=3)
    values = [1.0, 2.0, 2.0, 1.0, 2.0, 2.0]
    assert fed(guard, "pl_frame_entropy", values) == [None] * 6
    assert guard.observe(6, {"pl_frame_entropy": 2.0}) is not None


def test_silent_until_back_inside() -> None:
    guard = Guard(reference_steps=1, window=1, patience=2)
    values = [1.0, 2.0, 2.0, 2.0, 2.0, 1.0, 2.0, 2.0, 2.0]
    alarms = fed(guard, "pl_frame_entropy", values)
    assert [bool(alarm) for alarm in alarms] == [i in (2, 7) for i in range(9)]
    assert [alarm.number for alarm in alarms if alarm] == [1, 2]
    assert guard.alarms == 2


def test_a_later_alarm_names_what_lasts() -> None:
    guard = Guard(reference_steps=1, window=1, patience=2)
    for step, (entropy, vocabulary) in enumerate([(1, 10), (2, 10), (2, 2), (2, 2)]):
        alarm = guard.observe(
            step, {"pl_frame_entropy": entropy, "pl_vocabulary": vocabulary}
        )
    names = [breach.monitor for breach in alarm.breaches]
    assert names == ["pl_vocabulary", "pl_frame_entropy"]
    assert diagnose(alarm) == ("flattening", "few_tokens")


def test_nan_is_skipped() -> None:
    values = [1.0, 1.2, 2.5, 2.5, 2.5, 2.5]
    plain = Guard(reference_steps=2, window=2, patience=3)
    holed = Guard(reference_steps=2, window=2, patience=3)
    alarms = [a for a in fed(plain, "pl_frame_entropy", values) if a]
    holes = [x for value in values for x in (math.nan, value, math.nan)]
    assert (
        alarms[0].breaches
        == [a for a in fed(holed, "pl_frame_entropy", holes) if a][0].breaches
    )
    assert holed.level("pl_frame_entropy") == plain.level("pl_frame_entropy")
    never = Guard(reference_steps=1, patience=1)
    assert not any(fed(never, "pl_frame_entropy", [math.nan] * 50))
    assert never.healthy and math.isnan(never.reference("pl_frame_entropy"))


@pytest.mark.parametrize("known", [0, 5])
@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_values_are_breaches_that_pass(known, value) -> None:
    guard = Guard(reference_steps=3, window=4, patience=3)
    alarms = fed(guard, "pl_mean_entropy", [2.0] * known + [value] * 3)
    assert alarms[:-1] == [None] * (known + 2)
    assert alarms[-1].breaches[0].side == "infinite"
    assert "Training has diverged" in explain(alarms[-1])
    assert not guard.healthy
    for step in range(3):
        guard.observe(step, {"pl_mean_entropy": 2.0})
    assert guard.healthy and guard.level("pl_mean_entropy") == 2.0


def test_other_statistics_are_not_looked_at() -> None:
    guard = Guard(reference_steps=1, window=1, patience=1)
    assert guard.observe(0, {"loss": math.inf, "pl_wer": 9.0}) is None


def test_a_ratio_to_nothing_is_no_limit() -> None:
    guard = Guard(reference_steps=1, window=1, patience=1)
    assert not any(fed(guard, "pl_blank_share", [0.0, 0.5, 0.9]))
    assert guard.observe(3, {"pl_blank_share": 0.98}) is not None


@pytest.mark.parametrize("action", ACTIONS)
def test_a_resumed_guard_is_the_same_guard(action, tmp_path) -> None:
    conf = dict(reference_steps=5, window=5, patience=3, max_back_offs=2)
    whole, resumed = Guard(action, **conf), Guard(action, **conf)
    rng = random.Random(1)
    end = {"pl_frame_entropy": 1.5, "pl_vocabulary": 2.0}
    for step in range(120):
        monitors = noisy(moving(end, 0, 40, step % 60), rng)
        monitors[rng.choice(MONITORS)] = rng.choice([math.nan, math.inf, 1.0])
        alarm = whole.observe(step, monitors)
        assert repr(alarm) == repr(resumed.observe(step, monitors))
        if alarm and action == "back_off":
            whole.note_back_off()
            resumed.note_back_off()
        state = through_a_file(resumed.state_dict(), tmp_path / "guard.pth")
        resumed = Guard(action, **conf)
        resumed.load_state_dict(state)
        assert repr(resumed.state_dict()) == repr(whole.state_dict())
        assert resumed.healthy == whole.healthy
        assert resumed.weight_factor == whole.weight_factor
    assert whole.alarms > 1


def test_a_state_does_not_change_with_the_guard() -> None:
    guard = Guard(reference_steps=1)
    fed(guard, "pl_vocabulary", [3.0, 4.0])
    state = guard.state_dict()
    before = repr(state)
    fed(guard, "pl_vocabulary", [5.0])
    assert repr(state) == before


def test_history_is_bounded() -> None:
    guard = Guard()
    assert guard.history() == ([], {name: [] for name in MONITORS})
    fed(guard, "pl_vocabulary", map(float, range(HISTORY + 5)))
    steps, values = guard.history()
    assert steps == list(range(5, HISTORY + 5))
    assert values["pl_vocabulary"] == [float(step) for step in steps]
    restored = Guard()
    restored.load_state_dict(guard.state_dict())
    fed(restored, "pl_vocabulary", [1.0])
    assert len(restored.history()[0]) == HISTORY


def test_back_off_returns_to_the_reference() -> None:
    guard = Guard("back_off", reference_steps=2, window=4, patience=2, lower_weight=0.5)
    for number in (1, 2, 3):
        assert not guard.exhausted
        assert guard.weight_factor == 0.5 ** (number - 1)
        start = [1.0, 1.0] if number == 1 else []
        alarms = fed(guard, "pl_frame_entropy", start + [9.0] * 2)
        assert alarms[-1].number == number and not guard.healthy
        guard.note_back_off()
        assert guard.healthy and guard.back_offs == number
        assert guard.level("pl_frame_entropy") == 1.0
        assert guard.reference("pl_frame_entropy") == 1.0
    assert guard.exhausted and guard.weight_factor == 0.125


def test_a_back_off_keeps_an_unfinished_reference() -> None:
    guard = Guard(reference_steps=4)
    fed(guard, "pl_vocabulary", [1.0, 2.0])
    guard.note_back_off()
    fed(guard, "pl_vocabulary", [3.0, 4.0])
    assert guard.reference("pl_vocabulary") == 2.5


def test_limits_from_settings() -> None:
    guard = build("warn", limits={"pl_frame_entropy": {"highest": 3, "above": 2.5}})
    assert guard.limits["pl_frame_entropy"] == Limits(highest=3, above=2.5)
    assert guard.limits["pl_vocabulary"] == DEFAULT_LIMITS["pl_vocabulary"]
    guard = build("warn", limits={"pl_blank_share": {"highest": None}})
    default = DEFAULT_LIMITS["pl_blank_share"]
    assert default.highest is not None
    assert guard.limits["pl_blank_share"] == dataclasses.replace(default, highest=None)


def test_names() -> None:
    assert build("none") is None and build(None) is None
    for action in ACTIONS:
        assert build(action, window=5).action == action
    with pytest.raises(ValueError, match="pl_guard: .*'backoff'.*mean 'back_off'"):
        build("backoff")
    with pytest.raises(ValueError, match="action must be one of warn, .*'halt'"):
        Guard("halt")
    with pytest.raises(ValueError, match="pl_guard_conf: unknown key 'action'"):
        build("warn", action="stop")
    with pytest.raises(ValueError, match="'pacience'. Did you mean 'patience'"):
        build("warn", pacience=3)


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        ({"reference_steps": 0}, "reference_steps must be an integer >= 1, got 0"),
        ({"window": 2.5}, "window must be an integer >= 1, got 2.5"),
        ({"patience": True}, "patience must be"),
        ({"max_back_offs": -1}, "max_back_offs must be"),
        ({"on_alarm": True}, "on_alarm must be a shell command"),
        ({"on_alarm": " "}, "on_alarm must be a shell command"),
        ({"lower_weight": 1.5}, r"lower_weight must be a number in \[0, 1\], got 1.5"),
        ({"lower_weight": math.nan}, "lower_weight must be"),
        ({"lower_weight": "half"}, "lower_weight must be"),
        ({"limits": 3}, "limits must be a mapping"),
        ({"limits": {"pl_entropy": {}}}, "'pl_entropy'. Did you mean .*_entropy"),
        ({"limits": {"pl_vocabulary": 0.5}}, "pl_vocabulary must be a mapping"),
        ({"limits": {"pl_vocabulary": {"lowst": 1}}}, "Did you mean 'lowest'"),
        (
            {"limits": {"pl_vocabulary": {"lowest": 1.0}}},
            r"vocabulary: lowest .*\[0, 1",
        ),
        ({"limits": {"pl_vocabulary": {"highest": 1}}}, "highest must be greater"),
        ({"limits": {"pl_vocabulary": {"rise": 0}}}, "rise must be greater than 0"),
        ({"limits": {"pl_vocabulary": {"above": math.inf}}}, "above must be a finite"),
        ({"limits": {"pl_vocabulary": {"below": "x"}}}, "below must be a finite"),
        ({"limits": {"pl_vocabulary": {"below": 2, "above": 2}}}, "less than above"),
    ],
)
def test_bad_settings_are_refused(conf, message) -> None:
    with pytest.raises(ValueError, match=f"pl_guard_conf: .*{message}"):
        build("warn", **conf)


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
