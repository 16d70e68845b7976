"""Labeled and unlabeled mini-batches in one order, a function of seed and step."""

from __future__ import annotations

import functools
import itertools

import torch
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory

from espnet_softpl.cache.plan import CachePlan
from espnet_softpl.training.iterator import EndlessBatches, MixedIterFactory
from espnet_softpl.training.schedule import Schedule

# In the order that is drawn; most tests are about that.
interleaved = functools.partial(Schedule, form="interleaved")


class Names(torch.utils.data.Dataset):
    """A data set whose items are their own names."""

    def __getitem__(self, key: str) -> str:
        """Return the key."""
        return key


def collate(keys: list[str]) -> tuple[list[str], dict[str, torch.Tensor]]:
    speech = torch.zeros(len(keys), 4)
    return keys, {"speech": speech, "speech_lengths": torch.full((len(keys),), 4)}


def batches(prefix: str, count: int) -> list[list[str]]:
    return [[f"{prefix}{i}a", f"{prefix}{i}b"] for i in range(count)]


def mixed(schedule: Schedule, seed: int = 1, workers: int = 0, **more):
    labeled = SequenceIterFactory(
        Names(), batches("l", 5), num_workers=workers, collate_fn=collate
    )
    return MixedIterFactory(labeled, Names(), batches("u", 7), schedule, seed, **more)


def names(iterator) -> list[str]:
    return [ids[0] for ids, _ in iterator]


def test_endless_batches_go_round_and_are_reshuffled() -> None:
    batches = EndlessBatches(list("abcde"), seed=3)
    taken = [batches[number] for number in range(15)]
    turns = [taken[i : i + 5] for i in (0, 5, 10)]
    assert all(sorted(turn) == list("abcde") for turn in turns)
    assert len({tuple(turn) for turn in turns}) == 3
    assert [EndlessBatches(list("abcde"), 3)[n] for n in (14, 4)] == [
        taken[14],
        taken[4],
    ]


def test_shards_are_read_one_after_the_other() -> None:
    batches = EndlessBatches(list("aabbbcccc"), seed=3, shards=[2, 3, 4])
    passes = [[batches[n] for n in range(i, i + 9)] for i in range(0, 90, 9)]
    orders = {tuple(k for k, _ in itertools.groupby(one)) for one in passes}
    assert all(sorted(order) == ["a", "b", "c"] for order in orders) and len(orders) > 1
    numbered = EndlessBatches(range(9), seed=3, shards=[2, 3, 4])
    within = {
        tuple(n for n in map(numbered.__getitem__, range(i, i + 9)) if n > 4)
        for i in range(0, 90, 9)
    }
    assert len(within) > 1
    assert all(
        sorted(numbered[n] for n in range(i, i + 9)) == [*range(9)]
        for i in range(0, 90, 9)
    )


def test_epochs_follow_the_schedule_and_use_every_batch() -> None:
    schedule = interleaved(start_step=3, labeled_steps=1, unlabeled_steps=2)
    epochs = mixed(schedule, num_iters_per_epoch=8)
    seen = list(itertools.chain(*(names(epochs.build_iter(e)) for e in range(1, 10))))
    kinds = [name.startswith("u") for name in seen]
    assert kinds == schedule.is_unlabeled(1, 0, 72)
    for letter, per_pass in (("l", 5), ("u", 7)):
        ours = [name for name in seen if name.startswith(letter)]
        for first in range(0, len(ours) - per_pass + 1, per_pass):
            assert len(set(ours[first : first + per_pass])) == per_pass


def test_an_epoch_does_not_depend_on_those_before_it() -> None:
    schedule = interleaved(labeled_steps=1, unlabeled_steps=2)
    epochs = mixed(schedule, num_iters_per_epoch=7)
    whole = [names(epochs.build_iter(epoch)) for epoch in (1, 2, 3)]
    fresh = mixed(schedule, num_iters_per_epoch=7)
    assert names(fresh.build_iter(3)) == whole[2] != whole[1]
    assert names(mixed(schedule, 2, num_iters_per_epoch=7).build_iter(3)) != whole[2]


def test_loader_processes_change_nothing() -> None:
    schedule = interleaved(labeled_steps=1, unlabeled_steps=2)
    alone = mixed(schedule, num_iters_per_epoch=9).build_iter(2)
    helped = mixed(schedule, workers=1, num_iters_per_epoch=9).build_iter(2)
    assert names(alone) == names(helped)


def test_weights_ride_on_unlabeled_batches_only() -> None:
    schedule = interleaved(labeled_steps=1, unlabeled_steps=1, weight=2.0, ramp_steps=4)
    iterator = mixed(schedule, num_iters_per_epoch=6).build_iter(1)
    assert len(iterator) == 6
    for step, (ids, fields) in enumerate(iterator):
        if ids[0].startswith("l"):
            assert "unlabeled" not in fields and "speech" in fields
        else:
            assert fields["unlabeled"].utt_id == ids
            assert fields["unlabeled"].weight == schedule.unlabeled_weight(step)
        assert fields["pl_step"] == step
    second = mixed(schedule, num_iters_per_epoch=6).build_iter(2)
    assert [fields["pl_step"] for _, fields in second] == list(range(6, 12))


def test_default_epoch_is_one_pass_over_the_labeled_data() -> None:
    assert (
        mixed(interleaved(labeled_steps=1, unlabeled_steps=3)).num_iters_per_epoch == 20
    )
    assert (
        mixed(interleaved(labeled_steps=2, unlabeled_steps=1)).num_iters_per_epoch == 8
    )
    only = interleaved(labeled_steps=0, unlabeled_steps=1)
    assert mixed(only).num_iters_per_epoch == 7


CACHED = interleaved(start_step=2, labeled_steps=1, unlabeled_steps=2)


def cached(workers: int = 0, plan: CachePlan | None = None) -> MixedIterFactory:
    plan = plan or CachePlan(size=4, seed=1, probability=0.3)
    return mixed(
        CACHED, workers=workers, num_iters_per_epoch=9, make_plan=lambda _: plan
    )


def story(iterator) -> list[tuple]:
    """Tell what an epoch trains on, and what it inserts before it."""
    return [
        (
            ids[0],
            fields["unlabeled"].slot if "unlabeled" in fields else None,
            [(part.utt_id[0], part.slot) for part in fields.get("insertions", ())],
        )
        for ids, fields in iterator
    ]


def test_filling_the_cache_takes_no_step() -> None:
    epochs = cached()
    told = [step for epoch in (1, 2, 3) for step in story(epochs.build_iter(epoch))]
    assert len(told) == 27  # As many steps as without a cache.
    kinds = CACHED.is_unlabeled(1, 0, 27 + 4)
    filled = 0
    expected = []  # The schedule's turns, but for the first four unlabeled ones.
    for kind in kinds:
        if kind and filled < 4:
            filled += 1
        else:
            expected.append(kind)
    assert [name.startswith("u") for name, _, _ in told] == expected
    inserted = [slot for _, _, found in told for _, slot in found]
    assert inserted[:4] == [0, 1, 2, 3] and len(inserted) > 4


def test_what_is_trained_on_was_inserted_before() -> None:
    epochs = cached()
    slots: dict[int, str] = {}
    for epoch in range(1, 8):
        for name, slot, inserted in story(epochs.build_iter(epoch)):
            waiting = {s: n for n, s in inserted}
            if slot is not None:
                # At its own visit a slot is trained on before it is replaced, but in
                # the filling, which comes before the first visit.
                assert name == slots.get(slot, waiting.get(slot))
            slots.update(waiting)


def test_a_cached_epoch_does_not_depend_on_those_before_it_nor_on_loaders() -> None:
    epochs = cached()
    whole = [story(epochs.build_iter(epoch)) for epoch in range(1, 6)]
    assert story(cached().build_iter(5)) == whole[4]
    assert story(cached(workers=1).build_iter(5)) == whole[4]


def test_decisions_reach_the_loader_with_a_lag() -> None:
    plan = CachePlan(size=3, seed=1, probability=None, lag=3)
    asked = []

    def evicted(draw: int) -> bool:
        asked.append(draw)
        return draw % 2 == 0

    epochs = cached(workers=1, plan=plan)
    epochs.evicted = evicted
    first = story(epochs.build_iter(4))
    again = cached(plan=plan)
    again.evicted = evicted
    assert story(again.build_iter(4)) == first
    assert any(found for _, _, found in first)


def test_every_update_of_the_block_form_has_both_kinds_in_their_ratio() -> None:
    """Even if filling the cache has moved the turns, and in whole updates only."""
    schedule = Schedule(start_step=2, labeled_steps=1, unlabeled_steps=2)
    plan = CachePlan(size=3, seed=0, probability=0.5)
    batches = mixed(schedule, num_iters_per_epoch=10, make_plan=lambda _: plan)
    assert batches.num_iters_per_epoch == 12 and batches.update_steps == 3
    seen = [
        ("unlabeled" in fields, fields["pl_factor"])
        for epoch in (1, 2, 3)
        for _, fields in batches.build_iter(epoch)
    ]
    updates = [sorted(seen[i : i + 3]) for i in range(0, 36, 3)]
    supervised = [(False, 1.0)] * 3
    assert updates.count(supervised) == 1 and updates[0] == supervised
    whole = [(False, 3.0), (True, 1.5), (True, 1.5)]
    assert updates[-9:] == [whole] * 9
    for update in updates:
        of_kind = {kind: [f for k, f in update if k == kind] for kind, _ in update}
        assert all(sum(factors) == 3.0 for factors in of_kind.values())
