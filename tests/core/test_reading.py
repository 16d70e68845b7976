"""Values of tensors, read in one go."""

from __future__ import annotations

import torch

from espnet_softpl.core.reading import read_columns, read_values


def test_values_keep_order_and_numbers() -> None:
    loss = torch.tensor(0.5, requires_grad=True)
    values = {"n": 3, "loss": loss, "none": None, "size": torch.tensor([8])}
    read = read_values(values)
    assert list(read.items()) == [("n", 3), ("loss", 0.5), ("none", None), ("size", 8)]
    assert read_values({"n": 3}) == {"n": 3}


def test_columns_are_whole_numbers() -> None:
    many = torch.tensor([2**40 + 1, 0])
    read = read_columns(kept=torch.tensor([True, False]), samples=many)
    assert read == {"kept": [1, 0], "samples": [2**40 + 1, 0]}
