"""Whether anything was learned from unlabeled mini-batches."""

from __future__ import annotations

from espnet_softpl.monitors.learned import LearnedFrom


def count(learned: LearnedFrom, weight, reason, usable, factor=1.0) -> None:
    learned.count([value > 0 for value in weight], reason, usable, factor)


def test_an_epoch_without_learning_says_why() -> None:
    learned = LearnedFrom(["tokens", "rate"])
    count(learned, [0.0, 0.0, 0.0], [0, 0, 1], [True, True, True])
    count(learned, [0.0, 0.0, 0.0], [2, 2, -1], [True, False, False])
    words = learned.end_epoch(3)
    assert words.startswith("no unlabeled mini-batch was learned from in epoch 3: ")
    for part in (
        "2 mini-batches, ",
        "2 utterances dropped by tokens",
        "1 utterances dropped by rate",
        "2 utterances whose audio or loss cannot be used",
        "1 utterances whose label has a weight of 0",
    ):
        assert part in words
    count(learned, [0.0, 0.5], [0, -1], [True, True])
    assert learned.end_epoch(4) == "" == learned.end_run()
    assert "in epoch 5: 0 mini-batches" in learned.end_epoch(5)


def test_a_weight_of_zero_teaches_nothing() -> None:
    learned = LearnedFrom([])
    count(learned, [1.0], [-1], [True], factor=0.0)
    assert "1 mini-batches of weight 0 (lambda)" in learned.end_run()


def test_a_resumed_run_counts_on() -> None:
    first, second = LearnedFrom([]), LearnedFrom([])
    count(first, [1.0], [-1], [True])
    second.load_state_dict(first.state_dict())
    assert second.end_epoch(1) == second.end_run() == ""
    assert "no unlabeled" in second.end_epoch(2)
