"""Shared fixtures: seeded randomness, brute-force CTC, small batches."""

from __future__ import annotations

import itertools

import pytest
import torch

from espnet_softpl.ctc import greedy
from espnet_softpl.labels.pseudo_label import PseudoLabel


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Start every test from the same random state, in float32."""
    torch.manual_seed(20221111)


def reference_collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    """Merge repeats, then drop blanks, written as plainly as possible."""
    merged = [token for token, _ in itertools.groupby(path)]
    return tuple(token for token in merged if token != 0)


def all_paths(num_frames: int, num_tokens: int) -> list[tuple[int, ...]]:
    """List every alignment of `num_frames` frames over `num_tokens` tokens."""
    return list(itertools.product(range(num_tokens), repeat=num_frames))


def path_log_prob(log_probs: torch.Tensor, path: tuple[int, ...]) -> torch.Tensor:
    """Sum the log-probabilities of one alignment under (T, V) log-posteriors."""
    return sum(log_probs[t, token] for t, token in enumerate(path))


def make_log_probs(
    num_utterances: int, num_frames: int, num_tokens: int, dtype=torch.float32
) -> torch.Tensor:
    """Draw (B, T, V) log-posteriors that are not flat."""
    logits = 2.0 * torch.randn(num_utterances, num_frames, num_tokens, dtype=dtype)
    return logits.log_softmax(-1)


def make_label(log_probs: torch.Tensor, lengths: torch.Tensor) -> PseudoLabel:
    """Label like the generator does, with full trust."""
    tokens, token_lengths = greedy(log_probs, lengths)
    weight = log_probs.new_ones(log_probs.size(0))
    return PseudoLabel(log_probs, lengths, tokens, token_lengths, weight)


def pick(label: PseudoLabel, rows: torch.Tensor | slice) -> PseudoLabel:
    """Take some utterances of a label, in the order given."""
    fields = label._asdict()
    per_utterance = {k: v for k, v in fields.items() if v is not None and k != "prior"}
    return label._replace(**{k: v[rows] for k, v in per_utterance.items()})
