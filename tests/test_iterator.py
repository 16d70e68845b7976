"""Labeled and unlabeled mini-batches in one order, a function of seed and step."""

from __future__ import annotations

import itertools

import torch
from espnet2.iterators.sequence_iter_factory import SequenceIterFactory

from espnet_softpl.iterator import MixedIterFactory, take_batches
from espnet_softpl.schedule import Schedule


class Names(torch.utils.data.Dataset):
    """A data set whose items are their own names."""

    def __getitem__(self, key: str) -> str:
        """Return the key."""
        return key


def collate(keys: list[str]) -> tuple[list[str], dict[str, torch.Tensor]]:
    return keys, {"speech": torch.zeros(len(keys), 4)}


def factory(prefix: str, num_batches: int, num_workers: int = 0) -> SequenceIterFactory:
    batches = [[f"{prefix}{i}a", f"{prefix}{i}b"] for i in range(num_batches)]
    return SequenceIterFactory(
        Names(), batches, shuffle=True, num_workers=num_workers, collate_fn=collate
    )


def mixed(schedule: Schedule, seed: int = 1, workers: int = 0, **more):
    return MixedIterFactory(
        factory("l", 5, workers), factory("u", 7, workers), schedule, seed, **more
    )


def names(iterator) -> list[str]:
    return [ids[0] for ids, _ in iterator]


def test_take_batches_goes_round_and_reshuffles() -> None:
    taken = take_batches(list("abcde"), seed=3, first=0, count=15)
    turns = [taken[i : i + 5] for i in (0, 5, 10)]
    assert all(sorted(turn) == list("abcde") for turn in turns)
    assert len({tuple(turn) for turn in turns}) == 3
    assert take_batches(list("abcde"), 3, 4, 7) == taken[4:11]
    assert take_batches(list("abcde"), 3, 4, 0) == []


def test_epochs_follow_the_schedule_and_use_every_batch() -> None:
    schedule = Schedule(start_step=3, labeled_steps=1, unlabeled_steps=2)
    epochs = mixed(schedule, num_iters_per_epoch=8)
    seen = list(itertools.chain(*(names(epochs.build_iter(e)) for e in range(1, 10))))
    kinds = [name.startswith("u") for name in seen]
    assert kinds == schedule.is_unlabeled(1, 0, 72)
    for letter, per_pass in (("l", 5), ("u", 7)):
        ours = [name for name in seen if name.startswith(letter)]
        for first in range(0, len(ours) - per_pass + 1, per_pass):
            assert len(set(ours[first : first + per_pass])) == per_pass


def test_an_epoch_does_not_depend_on_those_before_it() -> None:
    schedule = Schedule(labeled_steps=1, unlabeled_steps=2)
    epochs = mixed(schedule, num_iters_per_epoch=7)
    whole = [names(epochs.build_iter(epoch)) for epoch in (1, 2, 3)]
    fresh = mixed(schedule, num_iters_per_epoch=7)
    assert names(fresh.build_iter(3)) == whole[2] != whole[1]
    assert names(mixed(schedule, 2, num_iters_per_epoch=7).build_iter(3)) != whole[2]


def test_loader_processes_change_nothing() -> None:
    schedule = Schedule(labeled_steps=1, unlabeled_steps=2)
    alone = mixed(schedule, num_iters_per_epoch=9).build_iter(2)
    helped = mixed(schedule, workers=1, num_iters_per_epoch=9).build_iter(2)
    assert names(alone) == names(helped)


def test_weights_ride_on_unlabeled_batches_only() -> None:
    schedule = Schedule(labeled_steps=1, unlabeled_steps=1, weight=2.0, ramp_steps=4)
    iterator = mixed(schedule, num_iters_per_epoch=6).build_iter(1)
    assert len(iterator) == 6
    for step, (ids, batch) in enumerate(iterator):
        if ids[0].startswith("l"):
            assert "unlabeled_weight" not in batch
        else:
            expected = schedule.unlabeled_weight(step)
            assert batch["unlabeled_weight"].tolist() == [expected] * 2
        assert batch["pl_step"].tolist() == [step] * 2
    second = mixed(schedule, num_iters_per_epoch=6).build_iter(2)
    assert [int(batch["pl_step"][0]) for _, batch in second] == list(range(6, 12))


def test_default_epoch_is_one_pass_over_the_labeled_data() -> None:
    assert mixed(Schedule(labeled_steps=1, unlabeled_steps=3)).num_iters_per_epoch == 20
    assert mixed(Schedule(labeled_steps=2, unlabeled_steps=1)).num_iters_per_epoch == 8
    only = Schedule(labeled_steps=0, unlabeled_steps=1)
    assert mixed(only).num_iters_per_epoch == 7
