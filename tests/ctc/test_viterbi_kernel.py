"""The compiled alignment, against one with dictionaries."""

import pytest
import torch

from espnet_softpl.ctc.viterbi import viterbi
from tests.conftest import make_log_probs


def align_plainly(frames: list[list[float]], labels: list[int]) -> list[int]:
    """Align one utterance, a set of states and paths at a time."""
    states = [0]
    for label in labels:
        states += [label, 0]
    best = {0: (0.0, [])}
    for frame in frames:
        reached: dict[int, tuple[float, list[int]]] = {}
        for state, (score, path) in best.items():
            for step in (0, 1, 2):
                after = state + step
                skips = step == 2
                if after >= len(states) or (skips and states[state] == states[after]):
                    continue
                grown = score + frame[states[after]]
                if after not in reached or grown > reached[after][0]:
                    reached[after] = grown, [*path, states[after]]
        best = reached
    return max((best[s] for s in best if s >= len(states) - 2), key=lambda b: b[0])[1]


def test_it_agrees_with_a_plain_search() -> None:
    log_probs = make_log_probs(4, 80, 6, torch.float64)
    log_probs[1, 7] = torch.nan
    log_probs[2, :, 3] = -torch.inf
    tokens = torch.randint(1, 6, (4, 30))
    tokens[2, 5] = 3
    lengths, token_lengths = (
        torch.tensor([80, 80, 79, 60]),
        torch.tensor([30, 20, 30, 1]),
    )
    paths, scores = viterbi(log_probs, lengths, tokens, token_lengths)
    for b in (0, 3):
        frames = log_probs[b, : lengths[b]]
        wanted = align_plainly(frames.tolist(), tokens[b, : token_lengths[b]].tolist())
        assert paths[b].tolist() == [*wanted, *[-1] * (80 - len(wanted))]
        total = frames[torch.arange(len(wanted)), wanted].sum()
        torch.testing.assert_close(scores[b], total)
    assert (paths[1:3] == -1).all() and scores[1:3].isneginf().all()


def test_no_frames_fit_no_labels() -> None:
    lengths, tokens = torch.tensor([0, 0]), torch.tensor([[1], [1]])
    path, score = viterbi(torch.zeros(2, 3, 4), lengths, tokens, torch.tensor([0, 1]))
    assert (path == -1).all() and score.tolist() == [0.0, -torch.inf]


@pytest.mark.parametrize(
    "length, token, labels, message",
    [(4, 1, 1, "lengths"), (3, 4, 1, "token"), (3, 1, 2, "lengths")],
)
def test_what_does_not_fit_is_refused(
    length: int, token: int, labels: int, message: str
) -> None:
    given = torch.tensor([length]), torch.tensor([[token]]), torch.tensor([labels])
    with pytest.raises(ValueError, match=message):
        viterbi(torch.zeros(1, 3, 4), *given)
