"""The collapse map, against a plain reference."""

import pytest
import torch

from espnet_softpl.ctc import (
    PADDING,
    collapse,
    frame_mask,
    frequent_tokens,
    greedy,
    min_frames,
)
from tests.conftest import all_paths, reference_collapse


@pytest.mark.parametrize(
    "path, transcript",
    [
        ([2, 0, 2], [2, 2]),  # "l <blank> l" is a double letter
        ([2, 2], [2]),
        ([2, 2, 0, 0, 2, 2, 2], [2, 2]),
        ([0, 0, 0], []),
        ([0, 1, 1, 2, 0, 2, 1], [1, 2, 2, 1]),
        ([], []),
        ([3], [3]),
    ],
)
def test_collapse_by_hand(path: list[int], transcript: list[int]) -> None:
    assert collapse(torch.tensor(path, dtype=torch.long)) == transcript


def test_collapse_agrees_with_the_reference_on_every_path() -> None:
    paths = all_paths(5, 3)
    tokens, token_lengths = collapse(torch.tensor(paths), torch.full((len(paths),), 5))
    for path, row, length in zip(paths, tokens.tolist(), token_lengths.tolist()):
        assert tuple(row[:length]) == reference_collapse(path)
        assert row[length:] == [PADDING] * (len(row) - length)


def test_collapse_ignores_what_lies_behind_the_length() -> None:
    path = torch.tensor([[1, 0, 1, 2, 2], [3, 3, 3, 3, 3]])
    tokens, token_lengths = collapse(path, torch.tensor([3, 0]))
    assert token_lengths.tolist() == [2, 0]
    assert tokens.tolist() == [[1, 1], [PADDING, PADDING]]


def test_collapse_takes_several_paths_of_each_utterance() -> None:
    path = torch.tensor([[[1, 0, 1], [2, 2, 1]], [[3, 3, 3], [0, 0, 3]]])
    tokens, token_lengths = collapse(path, torch.tensor([3, 2]))
    assert token_lengths.tolist() == [[2, 2], [1, 0]]
    assert tokens[0].tolist() == [[1, 1], [2, 1]]
    assert tokens[1].tolist() == [[3, PADDING], [PADDING, PADDING]]
    empty, none = collapse(path[:0], torch.tensor([], dtype=torch.long))
    assert empty.shape == (0, 2, 0) and none.shape == (0, 2)


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 3)])
def test_collapse_refuses_a_batch_without_lengths(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="lengths"):
        collapse(torch.zeros(shape, dtype=torch.long))


def test_greedy_is_the_collapsed_argmax() -> None:
    path = torch.tensor([[0, 4, 4, 0, 4, 1]])
    log_probs = torch.nn.functional.one_hot(path, 5).float().log_softmax(-1)
    tokens, token_lengths = greedy(log_probs, torch.tensor([6]))
    assert tokens.tolist() == [[4, 4, 1]] and token_lengths.tolist() == [3]


def test_min_frames_is_the_shortest_alignment() -> None:
    tokens = torch.tensor([[1, 1, 2], [1, 2, 1], [2, 2, 2], [1, 1, 9], [-1, -1, -1]])
    token_lengths = torch.tensor([3, 3, 3, 2, 0])
    shortest = []
    for row, length in zip(tokens.tolist(), token_lengths.tolist()):
        wanted = tuple(row[:length])
        fits = [
            n
            for n in range(6)
            for p in all_paths(n, 3)
            if reference_collapse(p) == wanted
        ]
        shortest.append(min(fits))
    assert min_frames(tokens, token_lengths).tolist() == shortest == [4, 3, 5, 3, 0]


def test_min_frames_of_empty_width() -> None:
    assert min_frames(torch.zeros(2, 0), torch.tensor([0, 0])).tolist() == [0, 0]


def test_frame_mask() -> None:
    mask = frame_mask(torch.tensor([0, 2]), 3)
    assert mask.tolist() == [[False] * 3, [True, True, False]]


def test_frequent_tokens_are_near_in_some_frame() -> None:
    frames = torch.tensor(
        [[0.1, 0.6, 0.2, 0.1, 0.0], [0.5, 0.4, 0.0, 0.05, 0.05], [0.1, 0, 0, 0, 0.9]]
    )
    frames = torch.stack((frames, frames.flip(0))).log()
    tokens, few = frequent_tokens(frames, torch.tensor([3, 1]), 1)
    assert tokens.tolist() == [[0, 1, 4], [0, 4, 0]]
    assert torch.equal(few[0], frames[0][:, [0, 1, 4]])
    assert torch.equal(few[1, :, :2], frames[1][:, [0, 4]])
    assert few[1, :, 2].isneginf().all()
