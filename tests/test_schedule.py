"""The schedule is a function of seed and step."""

import pytest

from espnet_softpl.schedule import Schedule


def test_blocks_hold_the_ratio_in_random_order() -> None:
    schedule = Schedule(start_step=5, labeled_steps=2, unlabeled_steps=3)
    kinds = schedule.is_unlabeled(seed=1, first_step=0, num_steps=5 + 5 * 200)
    assert not any(kinds[:5])
    blocks = [tuple(kinds[i : i + 5]) for i in range(5, len(kinds), 5)]
    assert {sum(block) for block in blocks} == {3}
    assert len(set(blocks)) == 10  # every order of 2 + 3 occurs


def test_any_window_is_a_cut_of_the_whole() -> None:
    schedule = Schedule(start_step=7, labeled_steps=1, unlabeled_steps=3)
    whole = schedule.is_unlabeled(3, 0, 60)
    for first in range(0, 50, 7):
        assert schedule.is_unlabeled(3, first, 10) == whole[first : first + 10]
        assert schedule.unlabeled_before(3, first) == sum(whole[:first])


def test_the_seed_matters() -> None:
    schedule = Schedule(labeled_steps=1, unlabeled_steps=1)
    assert schedule.is_unlabeled(1, 0, 100) != schedule.is_unlabeled(2, 0, 100)


def test_only_unlabeled_steps() -> None:
    schedule = Schedule(labeled_steps=0, unlabeled_steps=1)
    assert schedule.is_unlabeled(1, 0, 4) == [True] * 4


def test_weight_ramps_up_from_the_start() -> None:
    schedule = Schedule(start_step=10, weight=2.0, ramp_steps=4)
    weights = [schedule.unlabeled_weight(step) for step in (9, 10, 11, 13, 100)]
    assert weights == [0.0, 0.5, 1.0, 2.0, 2.0]
    assert Schedule(weight=0.5).unlabeled_weight(0) == 0.5


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
    ],
)
def test_bad_values_are_refused(conf) -> None:
    with pytest.raises(ValueError, match=next(iter(conf))):
        Schedule(**conf)
