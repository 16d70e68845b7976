"""Sampled transcripts: their distribution and their limit."""

import torch

from espnet_softpl import shaping
from espnet_softpl.ctc import greedy
from tests.conftest import (
    all_paths,
    make_label,
    make_log_probs,
    path_log_prob,
    reference_collapse,
)
from tests.shaping.test_base import teacher_label


def test_a_sampled_transcript_is_one_that_the_teacher_may_say() -> None:
    """At a temperature of 1 each transcript comes up as often as it is probable."""
    log_probs = make_log_probs(1, 3, 3)
    label = make_label(log_probs, torch.tensor([3]))
    shaped = shaping.build("sample", temperature=1.0)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(4000):
        told = shaped(label)
        assert torch.equal(told.log_probs, label.log_probs)
        key = tuple(told.tokens[0, : told.token_lengths[0]].tolist())
        counts[key] = counts.get(key, 0) + 1
    exact: dict[tuple[int, ...], float] = {}
    for path in all_paths(3, 3):
        key = reference_collapse(path)
        probability = float(path_log_prob(log_probs[0], path).exp())
        exact[key] = exact.get(key, 0.0) + probability
    for key, probability in exact.items():
        error = (probability * (1 - probability) / 4000) ** 0.5
        assert abs(counts.get(key, 0) / 4000 - probability) < 4 * error + 1e-3


def test_sampled_transcripts_become_greedy_at_low_temperatures() -> None:
    label = teacher_label()
    cold = shaping.build("sample", temperature=1e-3)(label)
    tokens, lengths = greedy(label.log_probs, label.lengths)
    assert torch.equal(cold.token_lengths, lengths)
    assert torch.equal(cold.tokens, tokens)
