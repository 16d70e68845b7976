"""Viterbi alignments, by enumeration."""

import pytest
import torch

from espnet_softpl.ctc import greedy
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
