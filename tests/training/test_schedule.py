"""The schedule is a function of seed and step."""

import functools
import math

import pytest

from espnet_softpl import criteria, shaping
from espnet_softpl.training.schedule import Schedule, Scheduled, ramp_value, resolve

# In the order that is drawn; most tests are about that.
interleaved = functools.partial(Schedule, form="interleaved")
RAMP = {"from": 2.0, "to": 1.0, "steps": 4}


def test_the_example_of_the_module() -> None:
    schedule = interleaved(labeled_steps=1, unlabeled_steps=2)
    kinds = schedule.is_unlabeled(seed=0, first_turn=0, num_turns=9)
    assert list(map(int, kinds)) == [1, 0, 1, 1, 0, 1, 1, 1, 0]
    assert [schedule.turn_of(0, step, filling=2) for step in (0, 1, 2)] == [0, 2, 4]


def test_blocks_hold_the_ratio_in_random_order() -> None:
    schedule = interleaved(start_step=5, labeled_steps=2, unlabeled_steps=3)
    kinds = schedule.is_unlabeled(seed=1, first_turn=0, num_turns=5 + 5 * 200)
    assert not any(kinds[:5])
    blocks = [tuple(kinds[i : i + 5]) for i in range(5, len(kinds), 5)]
    assert {sum(block) for block in blocks} == {3}
    assert len(set(blocks)) == 10  # every order of 2 + 3 occurs


def test_any_window_is_a_cut_of_the_whole() -> None:
    schedule = interleaved(start_step=7, labeled_steps=1, unlabeled_steps=3)
    whole = schedule.is_unlabeled(3, 0, 60)
    for first in range(0, 50, 7):
        assert schedule.is_unlabeled(3, first, 10) == whole[first : first + 10]
        assert schedule.unlabeled_before(3, first) == sum(whole[:first])


def test_the_seed_matters() -> None:
    schedule = interleaved(labeled_steps=1, unlabeled_steps=1)
    assert schedule.is_unlabeled(1, 0, 100) != schedule.is_unlabeled(2, 0, 100)


@pytest.mark.parametrize("filling", [0, 1, 5, 12])
def test_turns_of_steps_leave_out_the_filling(filling) -> None:
    schedule = interleaved(start_step=4, labeled_steps=1, unlabeled_steps=3)
    kinds = schedule.is_unlabeled(2, 0, 80)
    filled, trained = 0, []
    for turn, kind in enumerate(kinds):
        if kind and filled < filling:
            filled += 1
        else:
            trained.append(turn)
    assert schedule.turn_of(2, 0, filling) == 0
    for step in range(1, 60):
        assert schedule.turn_of(2, step, filling) == trained[step - 1] + 1


def test_lambda_may_be_any_ramp() -> None:
    ramp = {"from": 0.0, "to": 2.0, "steps": 4, "start": 10}
    schedule = interleaved(start_step=3, weight=ramp)
    assert [schedule.unlabeled_weight(step) for step in (2, 3, 11, 12, 99)] == [
        0.0,
        0.0,
        0.5,
        1.0,
        2.0,
    ]
    with pytest.raises(ValueError, match="weight must be a finite number >= 0"):
        interleaved(weight={"from": 1.0, "to": -1.0, "steps": 3})
    with pytest.raises(ValueError, match="a scheduled value is"):
        interleaved(weight={"from": 1.0, "to": 2.0})


def test_only_unlabeled_steps() -> None:
    schedule = interleaved(labeled_steps=0, unlabeled_steps=1)
    assert schedule.is_unlabeled(1, 0, 4) == [True] * 4


def test_weight_ramps_up_from_the_start() -> None:
    schedule = interleaved(start_step=10, weight=2.0, ramp_steps=4)
    weights = [schedule.unlabeled_weight(step) for step in (9, 10, 11, 13, 100)]
    assert weights == [0.0, 0.5, 1.0, 2.0, 2.0]
    assert interleaved(weight=0.5).unlabeled_weight(0) == 0.5
    integers = interleaved(weight={"from": 0, "to": 1, "steps": 1000})
    weights = [integers.unlabeled_weight(step) for step in (0, 250, 499, 1000)]
    assert weights == [0.0, 0.25, 0.499, 1.0]


@pytest.mark.parametrize(
    "conf",
    [
        {"start_step": -1},
        {"labeled_steps": -1},
        {"unlabeled_steps": 0},
        {"unlabeled_steps": 1.5},
        {"labeled_steps": True},
        {"ramp_steps": -2},
        {"weight": -1.0},
        {"weight": float("nan")},
        {"dropout": 1.5},
        {"layer_drop": -0.1},
    ],
)
def test_bad_values_are_refused(conf) -> None:
    with pytest.raises(ValueError, match=next(iter(conf))):
        interleaved(**conf)


def test_a_ramp_is_linear_and_then_constant() -> None:
    ramp = {"from": 2.0, "to": 0.5, "steps": 3, "start": 10}
    values = [ramp_value(ramp, step) for step in (0, 10, 11, 12, 13, 99)]
    assert values == [2.0, 2.0, 1.5, 1.0, 0.5, 0.5]
    whole = {"from": 1, "to": 4, "steps": 6}
    assert [ramp_value(whole, step) for step in (0, 1, 3, 9)] == [1.0, 1.5, 2.5, 4.0]


@pytest.mark.parametrize(
    "ramp, message",
    [
        ({"from": 1, "to": 2}, "scheduled value"),
        ({"from": 1, "to": 2, "steps": 3, "end": 4}, "scheduled value"),
        ({"from": 1, "to": 2, "steps": 0}, "steps must be an integer >= 1"),
        ({"from": 1, "to": 2, "steps": 1, "start": -1}, "start must be"),
        ({"from": "1", "to": 2, "steps": 1}, "from must be a finite number"),
        ({"from": 1, "to": math.inf, "steps": 1}, "to must be a finite number"),
    ],
)
def test_a_ramp_that_is_none_is_refused(ramp, message) -> None:
    with pytest.raises(ValueError, match=message):
        ramp_value(ramp, 0)


def test_settings_are_resolved_however_deep() -> None:
    ramp = {"from": 0.0, "to": 1.0, "steps": 4}
    conf = {"parts": [{"name": "a", "weight": ramp}, {"conf": {"b": [1, ramp]}}]}
    assert resolve(conf, 2) == {
        "parts": [{"name": "a", "weight": 0.5}, {"conf": {"b": [1, 0.5]}}]
    }


def test_a_scheduled_object_is_built_where_its_settings_change() -> None:
    built = []

    def build(**conf) -> dict:
        built.append(conf)
        if conf["x"] > 5:
            raise ValueError("x is too large")
        return conf

    fixed = Scheduled(build, {"x": 1})
    assert fixed.at(0) is fixed.at(10_000) and len(built) == 1
    moving = Scheduled(build, {"x": {"from": 0.0, "to": 4.0, "steps": 4}, "y": 7})
    assert [moving.at(step)["x"] for step in (0, 1, 3, 9, 10)] == [0, 1, 3, 4, 4]
    assert moving.at(11) is moving.at(12) and moving.at(2)["y"] == 7
    with pytest.raises(ValueError, match="too large"):  # At once, not at step 9.
        Scheduled(build, {"x": {"from": 0.0, "to": 6.0, "steps": 9}})


def test_a_block_is_one_update() -> None:
    schedule = Schedule(labeled_steps=1, unlabeled_steps=2)
    assert schedule.update_steps(accum_grad=2) == 6
    kinds = schedule.is_unlabeled(seed=3, first_turn=0, num_turns=6)
    assert kinds == [False, True, True] * 2
    factors = schedule.factors(kinds, accum_grad=2)
    assert factors == [3.0, 1.5, 1.5] * 2
    # ESPnet divides by the 6 mini-batches: each kind has a mean.
    assert sum(f for f, kind in zip(factors, kinds) if kind) / 6 == 1.0
    # Only labeled, as before start_step.
    assert schedule.factors([False] * 3, accum_grad=1) == [1.0] * 3
    assert interleaved().update_steps(accum_grad=2) == 2
    assert interleaved().factors([True, False], accum_grad=2) == [1.0, 1.0]
    with pytest.raises(ValueError, match="form"):
        Schedule(form="blocks")


class Mine(criteria.HardCTC):
    """A user's own criterion, with settings of all kinds."""

    def __init__(
        self, scale: float = 1.0, count: "int | None" = None, size: int = 1, other=None
    ) -> None:
        super().__init__()
        self.settings = scale, count, size, other


def scheduled(name: str, registry=criteria.REGISTRY, **conf) -> Scheduled:
    """Build a part that has settings with ramps."""
    return Scheduled(functools.partial(registry.build, name), conf)


def test_only_what_counts_something_is_rounded() -> None:
    ramp = {"from": 1, "to": 4, "steps": 6}
    steps = range(8)
    rounded = [1, 2, 2, 2, 3, 4, 4, 4]
    mine = scheduled(f"{__name__}:Mine", scale=ramp, count=ramp, size=ramp, other=ramp)
    assert mine.at(1).settings == (1.5, 2, 2, 1.5)
    assert scheduled("soft_ce", temperature=ramp).at(1).temperature == 1.5
    nbest = scheduled("nbest_ctc", nbest=ramp)
    assert [nbest.at(step).nbest for step in steps] == rounded
    blend = scheduled("blend", alpha={"from": 0, "to": 1, "steps": 4})
    assert [blend.at(step).weights[0] for step in (0, 1, 3)] == [0.0, 0.25, 0.75]
    # In a part of a part too.
    part = {"criterion": "nbest_ctc", "criterion_conf": {"nbest": ramp}, "weight": ramp}
    parts = scheduled("blend", parts=[part])
    assert [parts.at(step).parts[0].nbest for step in steps] == rounded
    assert parts.at(1).weights == [1.5]
    with pytest.raises(ValueError, match="nbest must be an integer"):
        scheduled("nbest_ctc", nbest={"from": 1.0, "to": 4.0, "steps": 6})


def test_what_a_part_needs_is_asked_at_all_steps() -> None:
    rise, fall = ({"from": a, "to": 4 - a, "steps": 9, "start": 3} for a in (1, 3))
    for ramp in (rise, fall):
        part = scheduled("nbest_ctc", nbest=ramp)
        assert part.ever("needs_posteriors") and not part.always("needs_posteriors")
    blank = scheduled("blank", shaping.REGISTRY, prior_scale=dict(rise, **{"from": 0}))
    assert blank.ever("needs_prior") and not blank.at(3).needs_prior
    # 0 at both ends, and not between.
    up, down = ({"from": a, "to": 1 - a, "steps": 20} for a in (0, 1))
    conf = {"criterion": "consistency", "criterion_conf": {"labeled_weight": up}}
    parts = [{"criterion": "hard_ctc"}, dict(conf, weight=down)]
    blend = scheduled("blend", parts=parts)
    assert blend.at(0).labeled_weight == blend.at(20).labeled_weight == 0.0
    assert blend.ever("labeled_weight")


def test_what_is_refused_between_the_ends_is_refused_at_once() -> None:
    wide = {"from": 8, "to": 16, "steps": 10, "start": 20}
    with pytest.raises(ValueError, match="beam_size must be an integer >= 12"):
        scheduled("nbest_ctc", nbest={"from": 1, "to": 12, "steps": 5}, beam_size=wide)
