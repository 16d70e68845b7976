"""Viterbi, occupancies, the CTC of several transcripts, sampling: by enumeration."""

import pytest
import torch
import torch.nn.functional as F

from espnet_softpl.ctc import greedy
from espnet_softpl.ctc.loss import ctc_nll, occupancies
from espnet_softpl.ctc.sampling import sample_paths
from espnet_softpl.ctc.viterbi import viterbi
from tests.conftest import all_paths, make_log_probs, path_log_prob, reference_collapse

TRANSCRIPTS = [(), (1,), (1, 1), (1, 2), (2, 1, 2), (1, 1, 1), (3, 3, 2)]
FRAMES = [5, 3, 4, 5, 5, 4, 5]
LENGTHS = torch.tensor(FRAMES)


def batch(dtype=torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw log-posteriors, and lay the transcripts out beside them."""
    log_probs = make_log_probs(len(FRAMES), 5, 4, dtype)
    tokens = torch.full((len(FRAMES), 3), -1)
    for row, transcript in zip(tokens, TRANSCRIPTS):
        row[: len(transcript)] = torch.tensor(transcript, dtype=torch.long)
    return log_probs, tokens, torch.tensor([len(y) for y in TRANSCRIPTS])


def alignments(frames: int, transcript: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [p for p in all_paths(frames, 4) if reference_collapse(p) == transcript]


def test_viterbi_finds_the_best_of_all_alignments() -> None:
    log_probs, tokens, token_lengths = batch()
    paths, scores = viterbi(log_probs, LENGTHS, tokens, token_lengths)
    for b, (frames, transcript) in enumerate(zip(FRAMES, TRANSCRIPTS)):
        candidates = alignments(frames, transcript)
        if not candidates:  # (1, 1, 1) has no alignment in 4 frames.
            assert (paths[b] == -1).all() and scores[b] == -torch.inf
            continue
        best = max(candidates, key=lambda path: path_log_prob(log_probs[b], path))
        assert paths[b].tolist() == [*best, *[-1] * (5 - frames)]
        torch.testing.assert_close(scores[b], path_log_prob(log_probs[b], best))
    assert sum(not alignments(f, y) for f, y in zip(FRAMES, TRANSCRIPTS)) == 1


def test_viterbi_of_the_greedy_transcript_is_the_best_path() -> None:
    log_probs = make_log_probs(3, 30, 6)
    lengths = torch.tensor([30, 17, 1])
    path, _ = viterbi(log_probs, lengths, *greedy(log_probs, lengths))
    for row, frames, length in zip(path, log_probs, lengths):
        assert torch.equal(row[:length], frames[:length].argmax(-1))
        assert (row[length:] == -1).all()


def test_viterbi_agrees_with_torchaudio() -> None:
    functional = pytest.importorskip("torchaudio.functional")
    log_probs = make_log_probs(1, 40, 6)
    tokens = torch.tensor([[1, 1, 2, 5, 3, 3, 4]])
    args = (torch.tensor([40]), torch.tensor([7]))
    try:
        theirs, scores = functional.forced_align(log_probs, tokens, *args)
    except (RuntimeError, AttributeError) as error:
        pytest.skip(f"torchaudio has no forced_align here: {error}")
    path, score = viterbi(log_probs, args[0], tokens, args[1])
    torch.testing.assert_close(score, scores.sum(1))
    assert torch.equal(path, theirs.long())


def several() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Lay out three transcripts for each of two utterances of 9 and 6 frames."""
    tokens = torch.tensor(
        [
            [[1, 1, 2, -1], [3, 4, 3, 4], [-1, -1, -1, -1]],
            [[2, 2, 2, 2], [4, 1, -1, -1], [2, 2, 2, -1]],
        ]
    )
    return torch.tensor([9, 6]), tokens, torch.tensor([[3, 4, 0], [4, 2, 3]])


def test_ctc_of_several_transcripts_is_torchs_ctc_of_each() -> None:
    lengths, tokens, token_lengths = several()
    logits = make_log_probs(2, 9, 5).requires_grad_(True)
    weights = torch.tensor([[0.5, 1.0, 0.2], [1.0, 2.0, 0.0]])
    losses = ctc_nll(logits.log_softmax(-1), lengths, tokens, token_lengths)
    (ours,) = torch.autograd.grad((losses * weights).sum(), logits)
    total = 0.0
    for k in range(3):
        expected = F.ctc_loss(
            logits.log_softmax(-1).transpose(0, 1),
            tokens[:, k].clamp(min=0),
            lengths,
            token_lengths[:, k],
            reduction="none",
            zero_infinity=True,
        )
        torch.testing.assert_close(losses[:, k], expected)
        total = total + (expected * weights[:, k]).sum()
    assert losses[1, 0] == 0.0  # (2, 2, 2, 2) needs 7 frames.
    torch.testing.assert_close(ours, torch.autograd.grad(total, logits)[0])


def test_ctc_gradient_is_exact_for_what_is_not_normalized() -> None:
    lengths, tokens, token_lengths = several()
    scores = torch.randn(2, 9, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: ctc_nll(x, lengths, tokens, token_lengths), (scores,)
    )


def test_occupancies_are_the_share_of_alignments() -> None:
    log_probs, tokens, token_lengths = batch()
    gamma = occupancies(
        log_probs,
        LENGTHS,
        tokens.unsqueeze(1),
        token_lengths.unsqueeze(1),
        torch.ones(len(FRAMES), 1),
    )
    for b, (frames, transcript) in enumerate(zip(FRAMES, TRANSCRIPTS)):
        expected = torch.zeros(5, 4, dtype=torch.float64)
        paths = alignments(frames, transcript)
        if paths:
            scores = torch.stack([path_log_prob(log_probs[b], path) for path in paths])
            for path, share in zip(paths, scores.softmax(0)):
                for t, token in enumerate(path):
                    expected[t, token] += share
        torch.testing.assert_close(gamma[b], expected, rtol=1e-9, atol=1e-9)


def test_occupancies_take_a_certain_teacher() -> None:
    certain = torch.full((1, 4, 3), -torch.inf)
    certain[0, torch.arange(4), torch.tensor([1, 0, 2, 2])] = 0.0
    gamma = occupancies(
        certain,
        torch.tensor([4]),
        torch.tensor([[[1, 2]]]),
        torch.tensor([[2]]),
        torch.ones(1, 1),
    )
    torch.testing.assert_close(gamma, certain.exp())


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
