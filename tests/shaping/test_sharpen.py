"""Sharpening, frame by frame."""

import itertools
import math

import pytest
import torch

from espnet_softpl import shaping
from tests.shaping.test_base import B, T, teacher_label


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_sharpen_frame_by_frame(temperature) -> None:
    label = teacher_label(torch.float64)
    shaped = shaping.build("sharpen", temperature=temperature)(label)
    for b, t in itertools.product(range(B), range(T)):
        powers = [math.exp(x) ** (1 / temperature) for x in label.log_probs[b, t]]
        expected = torch.tensor(powers, dtype=torch.float64) / sum(powers)
        torch.testing.assert_close(shaped.log_probs[b, t].exp(), expected)
