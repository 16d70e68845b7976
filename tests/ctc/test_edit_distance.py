"""Edit distances, against the textbook's recursion and by hand."""

import pytest
import torch

from espnet_softpl.ctc.edit_distance import distance, edits
from tests.conftest import make_label, make_log_probs, reference_edits
from tests.filters.test_base import words


def test_edits_and_distances_against_the_recursion() -> None:
    one, two = (
        make_label(make_log_probs(40, 6, 4), torch.tensor([6, 4, 2, 1] * 10))
        for _ in range(2)
    )
    pairs = list(zip(words(one), words(two), strict=True))
    assert any(not a for a, _ in pairs) and any(len(a) != len(b) for a, b in pairs)
    given = (one.tokens, one.token_lengths, two.tokens, two.token_lengths)
    counts = edits(*given)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [reference_edits(a, b) for a, b in pairs]
    apart = distance(*given)
    assert apart.dtype == torch.float32
    expected = [reference_edits(a, b) / max(1, len(a)) for a, b in pairs]
    assert apart.tolist() == pytest.approx(expected)


def test_distance_by_hand() -> None:
    one = torch.tensor([[1, 2, 3], [1, 9, 9], [9, 9, 9], [9, 9, 9]])
    two = torch.tensor([[1, 3], [2, 9], [4, 4], [1, 9]])
    lengths, others = torch.tensor([3, 1, 0, 0]), torch.tensor([2, 1, 2, 0])
    found = distance(one, lengths, two, others)
    torch.testing.assert_close(found, torch.tensor([1 / 3, 1.0, 2.0, 0.0]))
    none = torch.zeros(4, 0, dtype=torch.int64)
    zero = torch.zeros(4, dtype=torch.int64)
    assert distance(one, lengths, none, zero).tolist() == [1, 1, 0, 0]
    assert distance(none, zero, none, zero).tolist() == [0, 0, 0, 0]
    assert edits(none[:0], zero[:0], none[:0], zero[:0]).shape == (0,)
    with pytest.raises(ValueError, match="shorter"):
        distance(one, lengths, two[:3], others[:3])
