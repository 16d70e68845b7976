"""The average of the best epochs: which, their mean, and when it is taken."""

from __future__ import annotations

import math

import pytest
import torch

from espnet_softpl import teacher as teachers
from espnet_softpl.core.errors import UserError
from espnet_softpl.core.modules import average
from espnet_softpl.teacher.topn import best_epochs
from tests.support.teachers import (
    Epochs,
    Net,
    assert_close,
    assert_same,
    student_in,
    trajectory,
)


def test_pitfall_8_averaged_models_do_not_sum_their_counters() -> None:
    states = [student_in(state).state_dict() for state in trajectory(7)[3:]]
    mean = average(states)
    assert mean["norm.num_batches_tracked"].item() == 3
    assert mean["norm.num_batches_tracked"].dtype == torch.int64


def test_best_epochs() -> None:
    nan, inf = math.nan, math.inf
    finished = [(1, 3.0), (2, nan), (3, 1.0), (4, 2.0), (5, 1.0), (6, -inf), (7, inf)]
    assert best_epochs(finished, 3, "min") == [3, 5, 4]
    assert best_epochs(finished, 3, "max") == [1, 4, 3]
    assert best_epochs(finished, 9, "min") == [3, 5, 4, 1]
    assert best_epochs(finished[::-1], 2, "min") == [3, 5]
    assert best_epochs([(1, nan)], 2, "min") == best_epochs([], 2, "max") == []


def test_average_is_the_mean_of_new_tensors() -> None:
    states = trajectory(5)
    given = [student_in(state).state_dict() for state in states]
    before = [{k: v.clone() for k, v in state.items()} for state in given]
    mean = average(iter(given))
    for name, value in mean.items():
        wanted = states[0][name]
        if value.is_floating_point():
            wanted = torch.stack([state[name] for state in states]).mean(0).float()
        torch.testing.assert_close(value, wanted, rtol=0.0, atol=1e-7)
        value.fill_(0)
    for state, copy in zip(given, before, strict=True):
        assert all(torch.equal(state[name], copy[name]) for name in copy)


def test_average_sums_in_float64() -> None:
    """In float32, 2 ** 24 plus 1 is 2 ** 24."""
    states = [{"w": torch.tensor([2.0**24])}, *[{"w": torch.ones(1)}] * 15]
    assert average(states)["w"].item() == 2.0**20 + 1.0  # (2**24 + 15) / 16, rounded
    double = [{"w": torch.ones(1, dtype=torch.float64)}] * 2
    assert average(double)["w"].dtype == torch.float64
    assert double[0]["w"].item() == 1.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_average_of_half_precision_is_float32(dtype) -> None:
    values = [1.0, 1.0 + torch.finfo(dtype).eps]
    mean = average({"w": torch.tensor([value], dtype=dtype)} for value in values)["w"]
    assert mean.dtype == torch.float32
    assert mean.item() == sum(values) / 2


def test_average_leaves_out_what_is_not_finite() -> None:
    masks = torch.tensor([0.0, -math.inf])
    rows = [[1.0, 2.0], [math.nan, 4.0], [3.0, 6.0]]
    states = [{"var": torch.tensor(row), "mask": masks} for row in rows]
    mean = average(states)
    assert mean["var"].tolist() == [2.0, 4.0]
    assert torch.equal(mean["mask"], masks) and mean["mask"] is not masks


def test_average_refuses_other_structures() -> None:
    one = {"w": torch.ones(3)}
    with pytest.raises(ValueError, match="no model"):
        average([])
    for other in ({"v": torch.ones(3)}, {"w": torch.ones(1)}, {**one, "v": one["w"]}):
        with pytest.raises(UserError, match="1 (missing|unknown|of another shape)"):
            average([one, other])


def test_average_with_shares() -> None:
    values = enumerate([2.0, 6.0])
    states = [{"w": torch.tensor([1.0, w]), "n": torch.tensor(i)} for i, w in values]
    mean = average(states, [0.25, 0.75])
    assert mean["w"].tolist() == [1.0, 5.0] and mean["n"].item() == 0
    for shares, wanted in (([1.0, 0.0], 2.0), ([0.0, 1.0], 6.0)):
        mean = average(states, shares)
        assert mean["w"].tolist() == [1.0, wanted] and mean["n"].item() == 0
    bad = [{"w": torch.tensor([math.nan])}, {"w": torch.tensor([2.0])}]
    assert average(bad, [0.75, 0.25])["w"].tolist() == [2.0]
    with pytest.raises(ValueError, match="argument"):
        average(states, [1.0])


def test_topn_from_before_its_copy_to_the_average_of_the_best() -> None:
    states = trajectory(5)
    epochs = Epochs(states, [3.0, math.nan, 1.0, 2.0, 9.0])
    teacher, net = teachers.build("topn", n=2), student_in(states[0])
    assert (teacher.keep, teacher.criterion) == (2, ("valid", "cer_ctc", "min"))
    epochs.begin(teacher, net, 1)
    epochs.begin(teacher, net, 2)
    assert teacher.state_dict()["model"] is None and epochs.read_epochs == []
    copy = teacher.module(net)  # In the middle of epoch 2.
    assert_same(copy, net)
    teacher.update(student_in(states[5]))
    assert_same(copy, net)
    for epoch, best in ((3, [1]), (4, [3, 1]), (5, [3, 4]), (6, [3, 4])):
        before, epochs.read_epochs = teacher.epochs, []
        epochs.begin(teacher, student_in(states[5]), epoch)
        assert teacher.epochs == best == teacher.state_dict()["epochs"]
        assert epochs.read_epochs == ([] if best == before else best)
        mean = {
            name: torch.stack([states[e - 1][name] for e in best]).double().mean(0)
            for name in states[0]
        }
        mean["norm.num_batches_tracked"] = torch.tensor(best[0] - 1)
        assert_close(copy, mean)
        assert teacher.module(net) is copy and not copy.training
        assert not any(p.requires_grad for p in copy.parameters())


def test_topn_stays_a_copy_while_no_epoch_has_a_value() -> None:
    states = trajectory(2)
    epochs = Epochs(states, [math.nan, math.nan])
    teacher, net = teachers.build("topn"), student_in(states[0])
    copy = teacher.module(net)
    epochs.begin(teacher, student_in(states[2]), 3)
    assert teacher.epochs == [] and epochs.read_epochs == []
    assert_same(copy, net)


def test_topn_refuses_models_that_do_not_fit() -> None:
    """Such as those of ESPnet's save_strategy: adapter_only."""
    net, teacher = Net(), teachers.build("topn", n=1)
    copy = teacher.module(net)
    part = {"body.weight": torch.zeros(3, 3)}
    with pytest.raises(UserError, match=r"epochs \[1\].*6 missing \(body.bias, norm"):
        teacher.begin_epoch(net, [(1, 0.5)], lambda epoch: part)
    assert_same(copy, net)
    assert teacher.epochs == []
