"""Labels: their best paths and transcripts, and what is no label at all."""

from __future__ import annotations

import math

import torch

from espnet_softpl.ctc import PADDING
from espnet_softpl.labels.pseudo_label import Labels, best_path, without_nan
from tests.conftest import make_label, make_log_probs


def test_the_best_path_is_padded() -> None:
    log_probs = make_log_probs(2, 4, 5)
    path = best_path(log_probs, torch.tensor([4, 2]))
    assert torch.equal(path[0], log_probs[0].argmax(-1))
    assert path[1, 2:].tolist() == [PADDING, PADDING]


def test_transcripts_are_those_of_the_path() -> None:
    path = torch.tensor([[1, 1, 0, 1], [0, 2, PADDING, PADDING]])
    label = make_label(make_log_probs(2, 4, 3), torch.tensor([4, 2]))
    labels = Labels(["a", "b"], label, path, torch.tensor([-1, -1]), {}, step=3)
    tokens, lengths = labels.transcripts()
    assert lengths.tolist() == [2, 1]
    assert tokens[0, :2].tolist() == [1, 1] and tokens[1, :1].tolist() == [2]


def test_frames_without_a_chance_are_uniform_and_named() -> None:
    log_probs = make_log_probs(3, 4, 5)
    log_probs[0, 1] = math.nan
    log_probs[1, 2] = -math.inf
    log_probs[2, 3] = math.nan  # In the padding.
    cleaned, sound = without_nan(log_probs, torch.tensor([4, 4, 3]))
    assert sound.tolist() == [False, False, True]
    flat = torch.full((5,), -math.log(5))
    torch.testing.assert_close(cleaned[0, 1], flat)
    torch.testing.assert_close(cleaned[1, 2], flat)
    assert torch.equal(cleaned[0, 0], log_probs[0, 0])
