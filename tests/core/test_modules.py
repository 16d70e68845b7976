"""What is done to a module from outside; copies and averages: tests/teacher."""

from __future__ import annotations

import pytest
import torch

from espnet_softpl.core import modules
from espnet_softpl.core.errors import UserError


class Layer(torch.nn.Module):
    """A layer that is dropped as a whole, as ESPnet's are."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.stochastic_depth_rate = rate
        self.drop = torch.nn.Dropout(0.1)
        self.rnn = torch.nn.LSTM(2, 2, num_layers=2, dropout=0.2)


def test_what_drops_is_found() -> None:
    layer = Layer(0.0)
    assert modules.dropouts(layer) == [layer.drop, layer.rnn]
    assert not modules.drops_layers(layer) and modules.drops_layers(Layer(0.3))
    assert not modules.dropouts(torch.nn.Linear(2, 2))


def test_eval_mode_is_left_as_it_was_found() -> None:
    layer = Layer(0.0)
    layer.rnn.eval()
    with pytest.raises(RuntimeError), modules.evaluating(layer):
        assert not any(part.training for part in layer.modules())
        raise RuntimeError
    assert layer.training and layer.drop.training and not layer.rnn.training


def test_a_frozen_copy_is_not_walked() -> None:
    copy = modules.frozen_copy(Layer(0.0))
    copy.drop.training = True  # Nobody does; it would be put back otherwise.
    with modules.evaluating(copy) as module:
        assert module is copy and copy.drop.training
    with modules.evaluating(Layer(0.0)) as module:
        assert not module.drop.training


def test_a_copy_has_no_graph_and_no_gradient() -> None:
    net = torch.nn.Linear(2, 2).to(torch.bfloat16)
    net.last = net(torch.ones(1, 2, dtype=torch.bfloat16))
    net.last.sum().backward()
    copy = modules.frozen_copy(net)
    assert copy.last is None and copy.weight.grad is None
    assert copy.weight.dtype == torch.float32 and not copy.weight.requires_grad
    assert torch.equal(copy.weight, net.weight.float()) and not copy.training
    assert net.last is not None and net.weight.grad is not None and net.training


def test_other_weights_are_refused_by_name() -> None:
    wanted = torch.nn.Linear(2, 2).state_dict()
    modules.check_structure(dict(wanted), wanted, "the weights")
    other = {"weight": torch.ones(3, 2), "scale": torch.ones(1)}
    with pytest.raises(UserError) as error:
        modules.check_structure(other, wanted, "the weights")
    assert str(error.value) == (
        "the weights do not fit the model: 1 missing (bias); 1 unknown (scale); "
        "1 of another shape (weight)"
    )


def test_an_average_may_be_weighted() -> None:
    states = [{"w": torch.tensor([value])} for value in (1.0, 5.0)]
    assert modules.average(states)["w"].tolist() == [3.0]
    assert modules.average(states, shares=[3.0, 1.0])["w"].tolist() == [2.0]
    with pytest.raises(ValueError, match="no model"):
        modules.average([])


def test_values_keep_order_and_numbers() -> None:
    loss = torch.tensor(0.5, requires_grad=True)
    values = {"n": 3, "loss": loss, "none": None, "size": torch.tensor([8])}
    read = modules.read_values(values)
    assert list(read.items()) == [("n", 3), ("loss", 0.5), ("none", None), ("size", 8)]
    assert modules.read_values({"n": 3}) == {"n": 3}


def test_columns_are_whole_numbers() -> None:
    many = torch.tensor([2**40 + 1, 0])
    read = modules.read_columns(kept=torch.tensor([True, False]), samples=many)
    assert read == {"kept": [1, 0], "samples": [2**40 + 1, 0]}
