"""The dropout rates of a model, changed when pseudo-labeling starts."""

from __future__ import annotations

import pytest
import torch

from espnet_softpl.training.dropout import DropoutSwitch


class Stack(torch.nn.Module):
    """Layers that drop, one that does not, and a rate for whole layers."""

    def __init__(self, layer_drop: float = 0.3) -> None:
        super().__init__()
        self.layer_drop_rate = layer_drop
        self.parts = torch.nn.ModuleList(
            [
                torch.nn.Dropout(0.5),
                torch.nn.Dropout(0.0),
                torch.nn.LSTM(4, 4, num_layers=2, dropout=0.4),
            ]
        )

    def rates(self) -> list[float]:
        """Return all rates."""
        first, none, recurrent = self.parts
        return [first.p, none.p, recurrent.dropout, self.layer_drop_rate]


def test_rates_change_and_come_back() -> None:
    model = Stack()
    switch = DropoutSwitch(model, dropout=0.1, layer_drop=0.2)
    assert model.rates() == [0.5, 0.0, 0.4, 0.3]
    for _ in range(2):
        switch.set(True)
        assert model.rates() == [0.1, 0.0, 0.1, 0.2]
    switch.set(False)
    assert model.rates() == [0.5, 0.0, 0.4, 0.3]


def test_none_leaves_a_kind_as_it_is() -> None:
    model = Stack()
    DropoutSwitch(model, dropout=None, layer_drop=0.1).set(True)
    assert model.rates() == [0.5, 0.0, 0.4, 0.1]
    DropoutSwitch(torch.nn.Linear(2, 2), None, None).set(True)


def test_nothing_to_change_is_refused() -> None:
    with pytest.raises(ValueError, match="layer_drop is 0.1, but the model was built"):
        DropoutSwitch(Stack(layer_drop=0.0), dropout=0.1, layer_drop=0.1)
