"""The cache's plan against a plain simulation, and its statistics against theory."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from espnet_softpl.cache.plan import CachePlan, Load


def take(plan: CachePlan, count: int, first: int = 0, evicted=None) -> list[list[Load]]:
    return list(itertools.islice(plan.draws(first, evicted), count))


def test_the_filling_only_inserts() -> None:
    filling = take(CachePlan(5, seed=1), 5)
    assert filling == [[Load(i, i, insert=True)] for i in range(5)]


def test_every_pass_visits_every_slot_once_in_another_order() -> None:
    draws = take(CachePlan(6, seed=2), 6 + 5 * 6)[6:]
    slots = [loads[-1].slot for loads in draws]
    passes = [tuple(slots[i : i + 6]) for i in range(0, 30, 6)]
    assert all(sorted(turn) == list(range(6)) for turn in passes)
    assert len(set(passes)) > 1


@pytest.mark.parametrize("in_place", [False, True])
def test_it_trains_on_what_was_inserted_last(in_place) -> None:
    slots: dict[int, int] = {}
    inserted = []
    for loads in take(CachePlan(7, seed=3, probability=0.3, in_place=in_place), 500):
        *insertions, last = loads
        if last.insert:
            insertions.append(last)
        else:
            # A replacement is visible from the next visit on.
            assert last.number == slots[last.slot]
        for load in insertions:
            slots[load.slot] = load.number
            inserted.append(load.number)
    if in_place:
        assert set(inserted) == set(range(7)) and len(inserted) > 100
    else:  # Every unlabeled mini-batch in its turn, none left out.
        assert inserted == list(range(len(inserted)))


@pytest.mark.parametrize("plan", [CachePlan(5, 1, 0.4), CachePlan(5, 1, None, lag=4)])
def test_any_window_is_a_cut_of_the_whole(plan) -> None:
    def evicted(draw: int) -> bool:
        return plan.chance(draw) < 0.4

    whole = take(plan, 60, evicted=evicted)
    for first in (0, 3, 5, 6, 17, 40):
        assert take(plan, 20, first, evicted) == whole[first : first + 20]


@pytest.mark.parametrize(
    "plan", [CachePlan(5, 1, 0.4), CachePlan(5, 1, 0.4, True), CachePlan(5, 1, None)]
)
def test_a_later_draw_needs_no_replay_from_the_first(plan, monkeypatch) -> None:
    """In the next epoch, and after a resume from what was saved in this one."""

    def evicted(draw: int) -> bool:
        return chances[draw] < 0.4

    chances = {draw: plan.chance(draw) for draw in range(5, 605)}
    whole = take(plan, 600, evicted=evicted)
    assert take(plan, 100, 400, evicted) == whole[400:500]
    resumed = dataclasses.replace(plan)
    resumed.load_state_dict(plan.state_dict())
    assert resumed.position == plan.position and plan.position.draw == 400
    passes: list[int] = []
    draw_pass = CachePlan._pass
    monkeypatch.setattr(
        CachePlan, "_pass", lambda *a: passes.append(a[1]) or draw_pass(*a)
    )
    for each in (plan, resumed):
        assert take(each, 100, 500, evicted) == whole[500:600]
        assert min(passes) == (400 - 5) // 5
        # An earlier one is right, too: after a back-off, or with other settings.
        assert take(each, 20, 30, evicted) == whole[30:50]
        passes.clear()
    other = dataclasses.replace(plan, seed=2)
    other.load_state_dict(plan.state_dict())
    assert other.position is None


def test_probabilities_of_zero_and_one() -> None:
    never = take(CachePlan(4, 1, 0.0), 40)[4:]
    assert all(len(loads) == 1 for loads in never)
    always = take(CachePlan(4, 1, 1.0), 40)[4:]
    assert all(len(loads) == 2 for loads in always)


def test_uses_and_lifetimes_are_those_of_theory() -> None:
    """Each label is used 1/p times on average, and replaced after C/p updates."""
    size, p = 20, 0.1
    uses, born, used, lived = {}, {}, [], []
    for draw, loads in enumerate(take(CachePlan(size, 5, p), 60_000)):
        for load in reversed(loads):  # Trained on before it is replaced.
            if not load.insert:
                uses[load.slot] += 1
                continue
            if load.slot in uses:
                used.append(uses[load.slot])
                lived.append(draw - born[load.slot])
            uses[load.slot], born[load.slot] = 0, draw
    error = np.std(used) / len(used) ** 0.5
    assert abs(np.mean(used) - 1 / p) < 4 * error
    assert abs(np.mean(lived) - size / p) < 4 * np.std(lived) / len(lived) ** 0.5


def test_a_decision_takes_effect_after_its_lag_and_once() -> None:
    plan = CachePlan(3, seed=1, probability=None, lag=5)
    asked: list[int] = []

    def always(draw: int) -> bool:
        asked.append(draw)
        return True

    draws = take(plan, 40, evicted=always)
    numbers = [load.number for loads in draws for load in loads if load.insert]
    assert numbers == list(range(len(numbers)))
    for draw, loads in enumerate(draws[3:], 3):
        for load in loads:
            if load.insert:
                # The slot that was visited five draws ago.
                assert draws[draw - 5][-1].slot == load.slot
    # A slot visited twice before the first decision took effect is left only once.
    assert len(asked) < len(draws) - 8


def test_seeds_differ() -> None:
    assert take(CachePlan(5, 1), 50) != take(CachePlan(5, 2), 50)
