"""Sampled alignments: their distribution, independence and limit."""

import torch

from espnet_softpl.ctc.sampling import sample_paths
from tests.conftest import make_log_probs


def test_samples_follow_the_frame_distributions() -> None:
    log_probs = make_log_probs(2, 3, 4)
    lengths = torch.tensor([3, 2])
    for temperature in (1.0, 0.5):
        paths = sample_paths(log_probs, lengths, 20_000, temperature)
        wanted = (log_probs / temperature).softmax(-1)
        for b in range(2):
            for t in range(int(lengths[b])):
                seen = torch.bincount(paths[b, :, t], minlength=4) / 20_000
                torch.testing.assert_close(seen, wanted[b, t], rtol=0, atol=0.015)
        assert (paths[1, :, 2] == -1).all()


def test_samples_of_frames_and_of_utterances_are_independent() -> None:
    flat = torch.zeros(2, 2, 2).log_softmax(-1)
    flat[1] += torch.tensor([1e-6, 0.0])  # Equal utterances would get equal samples.
    paths = sample_paths(flat, torch.tensor([2, 2]), 20_000).double()
    series = torch.stack([paths[0, :, 0], paths[0, :, 1], paths[1, :, 0]])
    correlation = torch.corrcoef(series)
    off = correlation[~torch.eye(3, dtype=torch.bool)]
    assert off.abs().max() < 0.03


def test_a_small_temperature_samples_the_best_path() -> None:
    log_probs = 50 * make_log_probs(2, 7, 5)
    paths = sample_paths(log_probs, torch.tensor([7, 7]), 3, 1e-6)
    expected = log_probs.argmax(-1).unsqueeze(1).expand(-1, 3, -1)
    assert torch.equal(paths, expected)
