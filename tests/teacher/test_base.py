"""Teachers: who follows whom, in which mode and precision, exactly resumed."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from espnet_softpl import teacher as teachers
from espnet_softpl.core.errors import UserError
from espnet_softpl.core.modules import average, evaluating
from espnet_softpl.teacher.following import follow
from espnet_softpl.teacher.topn import best_epochs

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "delayed": [{"steps": 3}, {"steps": 1}],
    "ema": [
        {},
        {"decay": 0.7},
        {"half_life_steps": 4, "every_steps": 3},
        {"decay": 0.9, "warmup": True, "buffers": "average", "every_steps": 2},
        {"retention": 0.5, "steps_per_epoch": 5},
    ],
    "frozen": [{}],
    "student": [{}],
    "topn": [{"n": 2}, {"n": 3, "criterion": ["train", "acc", "max"]}],
}
CASES = [(name, conf) for name, confs in SETTINGS.items() for conf in confs]
every_teacher = pytest.mark.parametrize("name, conf", CASES)

STEPS, BIRTH, EPOCH = 14, 2, 4  # Optimizer steps: all, before birth, of one epoch.


class Net(torch.nn.Module):
    """A student with batch norm, dropout and a cached graph tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Linear(3, 3)
        self.norm = torch.nn.BatchNorm1d(3)
        self.drop = torch.nn.Dropout(0.5)
        self.last = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the result, as ESPnet's attention keeps its weights."""
        self.last = self.drop(self.norm(self.body(x)))
        return self.last


class Mine(teachers.FrozenTeacher):
    """A user's own teacher, named by dotted path."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise


def trained(net: Net, optimizer: torch.optim.Optimizer) -> None:
    net(torch.randn(8, 3)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def snapshot(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copy a module's state, in float64 where it is floating-point."""
    return {
        name: value.double() if value.is_floating_point() else value.clone()
        for name, value in net.state_dict().items()
    }


def trajectory(steps: int) -> list[dict[str, torch.Tensor]]:
    """Train a student; return its state before the first and after each step."""
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    states = [snapshot(net)]
    for _ in range(steps):
        trained(net, optimizer)
        states.append(snapshot(net))
    return states


def student_in(state: dict[str, torch.Tensor]) -> Net:
    """Build the student that has a state."""
    net = Net()
    net.load_state_dict(state)
    return net


def assert_close(module: torch.nn.Module, wanted: dict[str, torch.Tensor]) -> None:
    """Compare a float32 module to a state computed in float64."""
    state = module.state_dict()
    assert state.keys() == wanted.keys()
    for name, value in wanted.items():
        dtype = torch.float32 if value.is_floating_point() else value.dtype
        assert state[name].dtype == dtype
        torch.testing.assert_close(state[name], value.to(dtype), rtol=1e-5, atol=1e-6)


def assert_same(one: torch.nn.Module, two: torch.nn.Module) -> None:
    """Compare two modules bit for bit."""
    mine, theirs = one.state_dict(), two.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())


def by_save(state: Any) -> Any:
    """Write a state to a file and read it as a resumed run does."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def ema_by_hand(
    states: list[dict[str, torch.Tensor]],
    decays: list[float],
    average_buffers: bool,
) -> dict[str, torch.Tensor]:
    """Average float64 states one after the other, as plainly as possible."""
    result = dict(states[0])
    for state, decay in zip(states[1:], decays, strict=True):
        for name, value in state.items():
            averaged = name.startswith("body") or name in ("norm.weight", "norm.bias")
            if average_buffers and name in ("norm.running_mean", "norm.running_var"):
                averaged = True
            if averaged:
                value = decay * result[name] + (1.0 - decay) * value
            result[name] = value
    return result


def test_the_table_covers_every_teacher() -> None:
    assert set(SETTINGS) == set(teachers.available())
    assert teachers.available() == ("delayed", "ema", "frozen", "student", "topn")


@pytest.mark.parametrize("buffers", ["copy", "average"])
@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("every_steps", [1, 3])
def test_ema_is_the_average_by_hand(buffers, warmup, every_steps) -> None:
    states = trajectory(STEPS)
    teacher = teachers.build(
        "ema", decay=0.8, buffers=buffers, warmup=warmup, every_steps=every_steps
    )
    copy = teacher.module(student_in(states[0]))
    for step in range(1, STEPS + 1):
        teacher.update(student_in(states[step]))
        taken = states[every_steps : step + 1 : every_steps]
        decays = [0.8] * len(taken)
        if warmup:
            decays = [min(0.8, (1 + n) / (10 + n)) for n in range(1, len(taken) + 1)]
        wanted = ema_by_hand([states[0], *taken], decays, buffers == "average")
        assert_close(copy, wanted)
    assert teacher.updates == STEPS // every_steps
    assert teacher.module(Net()) is copy


def test_warmup_reaches_the_decay_and_stays_there() -> None:
    teacher = teachers.build("ema", decay=0.9, warmup=True)
    assert teacher.decay_at(1) == 2 / 11
    assert teacher.decay_at(79) < 0.9 == teacher.decay_at(81)
    assert teachers.build("ema", decay=0.1, warmup=True).decay_at(1) == 0.1


def test_pitfall_2_the_average_is_written_back() -> None:
    """A public code rebinds a local variable: its teacher never moves."""
    net, teacher = Net(), teachers.build("ema", decay=0.5)
    module, x = teacher.module(net), torch.randn(4, 3)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    labels = module(x)
    trained(net, torch.optim.SGD(net.parameters(), lr=0.5))
    teacher.update(net)
    assert teacher.module(net) is module
    for name, parameter in module.named_parameters():
        assert not torch.equal(parameter, before[name])
    assert not torch.allclose(module(x), labels)
    saved = teacher.state_dict()["model"]["body.weight"]
    assert torch.equal(saved, module.body.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pitfall_7_increments_below_half_precision_are_not_lost(dtype) -> None:
    """One unit of the student's precision away, a thousandth of it per step."""
    net, teacher = Net().to(dtype), teachers.build("ema", decay=0.999)
    with torch.no_grad():
        net.body.weight.fill_(1.0)
    copy = teacher.module(net)
    ulp = torch.finfo(dtype).eps
    with torch.no_grad():
        net.body.weight.fill_(1.0 + ulp)
    for _ in range(500):
        teacher.update(net)
    assert copy.body.weight.dtype == torch.float32
    # What an average kept in the student's precision would do: nothing.
    assert (
        torch.lerp(torch.tensor(1.0, dtype=dtype), net.body.weight, 0.001).eq(1).all()
    )
    moved = (copy.body.weight - 1.0) / ulp
    wanted = torch.full_like(moved, 1.0 - 0.999**500)
    torch.testing.assert_close(moved, wanted, rtol=0.02, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_the_average_is_float32_whatever_the_student_is(dtype, buffers) -> None:
    net = Net().to(dtype)
    teacher = teachers.build("ema", decay=0.999, buffers=buffers)
    copy = teacher.module(net)
    before = copy.body.weight.clone()
    with torch.no_grad():
        net.body.weight += 0.125
    teacher.update(net)
    floating = [t for t in copy.state_dict().values() if t.is_floating_point()]
    assert all(tensor.dtype == torch.float32 for tensor in floating)
    step = (copy.body.weight - before) / 0.125
    torch.testing.assert_close(step, torch.full_like(step, 0.001), rtol=0.05, atol=0)


@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_pitfall_8_batch_norm_counters_are_copied(buffers) -> None:
    net, teacher = Net(), teachers.build("ema", decay=0.9, buffers=buffers)
    copy = teacher.module(net)
    for _ in range(3):
        net(torch.randn(8, 3))
    teacher.update(net)
    assert copy.norm.num_batches_tracked.item() == 3
    assert copy.norm.num_batches_tracked.dtype == torch.int64
    taken = torch.equal(copy.norm.running_mean, net.norm.running_mean)
    assert taken == (buffers == "copy")


def test_pitfall_8_averaged_models_do_not_sum_their_counters() -> None:
    states = [student_in(state).state_dict() for state in trajectory(7)[3:]]
    mean = average(states)
    assert mean["norm.num_batches_tracked"].item() == 3
    assert mean["norm.num_batches_tracked"].dtype == torch.int64


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name, conf, share",
    [
        ("ema", {"decay": 0.9}, 1.0),
        ("ema", {"decay": 0.75, "buffers": "average"}, 0.25),
        ("delayed", {"steps": 1}, 1.0),
    ],
)
def test_statistics_that_are_not_finite_are_not_taken_over(
    name, conf, share, bad
) -> None:
    net, teacher = Net(), teachers.build(name, **conf)
    copy = teacher.module(net)
    net.norm.running_var.copy_(torch.tensor([2.0, bad, 3.0]))
    teacher.update(net)
    wanted = 1.0 + share * torch.tensor([1.0, 0.0, 2.0])
    torch.testing.assert_close(copy.norm.running_var, wanted)
    assert copy(torch.randn(4, 3)).isfinite().all()
    net.norm.running_var.fill_(5.0)
    teacher.update(net)
    wanted = wanted + share * (5.0 - wanted)
    torch.testing.assert_close(copy.norm.running_var, wanted)


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_constant_infinities_survive_an_average(decay) -> None:
    """An attention mask may be a buffer of -inf, whose difference is NaN."""
    net = Net()
    net.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    teacher = teachers.build("ema", decay=decay, buffers="average")
    copy = teacher.module(net)
    teacher.update(net)
    assert torch.equal(copy.mask, net.mask)


def test_birth_in_the_middle_of_training() -> None:
    """Regression: modules that keep a graph tensor could not be copied."""
    net, teacher = Net(), teachers.build("ema")
    net(torch.randn(8, 3)).sum().backward(retain_graph=True)
    teacher.update(net)  # before its birth there is nothing to update
    assert teacher.steps_seen == teacher.updates == 0
    copy = teacher.module(net)
    assert torch.equal(copy.body.weight, net.body.weight)
    assert all(p.grad is None and not p.requires_grad for p in copy.parameters())
    assert not any(part.training for part in copy.modules()) and copy.last is None
    assert net.training and net.last is not None


def test_ways_to_give_the_decay() -> None:
    def decay(**conf: float) -> float:
        return teachers.build("ema", **conf).decay

    assert decay() == 0.999
    assert decay(half_life_steps=10) ** 10 == pytest.approx(0.5)
    # Steps are steps, also where only every fourth one updates.
    assert decay(half_life_steps=20, every_steps=4) ** 5 == pytest.approx(0.5)
    assert decay(retention=0.3, steps_per_epoch=50) ** 50 == pytest.approx(0.3)
    slow = decay(retention=0.3, steps_per_epoch=48, every_steps=4)
    assert slow**12 == pytest.approx(0.3)
    assert decay(retention=1.0, steps_per_epoch=7) == 1.0
    assert decay(decay=0.5, every_steps=4) == 0.5


def test_retention_is_the_share_of_the_old_teacher_after_an_epoch() -> None:
    net = Net()
    teacher = teachers.build("ema", retention=0.5, steps_per_epoch=30)
    copy = teacher.module(net)
    start = copy.body.weight.clone()
    with torch.no_grad():
        net.body.weight += 1.0
    for _ in range(30):
        teacher.update(net)
    torch.testing.assert_close(copy.body.weight, start + 0.5, rtol=0, atol=1e-5)


def test_limits_of_the_decay() -> None:
    for decay, follows in ((0.0, True), (1.0, False)):
        net, teacher = Net(), teachers.build("ema", decay=decay)
        copy = teacher.module(net)
        start = copy.body.weight.clone()
        trained(net, torch.optim.SGD(net.parameters(), lr=0.5))
        teacher.update(net)
        expected = net.body.weight if follows else start
        assert torch.equal(copy.body.weight, expected)


def test_frozen_never_moves_and_student_is_the_student() -> None:
    net, frozen = Net(), teachers.build("frozen")
    copy, start = frozen.module(net), net.body.weight.detach().clone()
    trained(net, torch.optim.SGD(net.parameters(), lr=0.5))
    frozen.update(net)
    assert torch.equal(frozen.module(net).body.weight, start)
    assert frozen.module(net) is copy
    assert teachers.build("student").module(net) is net


@pytest.mark.parametrize("steps", [1, 3])
def test_delayed_is_the_student_of_the_last_round(steps) -> None:
    states = trajectory(STEPS)
    delayed = teachers.build("delayed", steps=steps)
    ema = teachers.build("ema", decay=0.0, every_steps=steps)
    copies = [t.module(student_in(states[0])) for t in (delayed, ema)]
    for step in range(1, STEPS + 1):
        net = student_in(states[step])
        delayed.update(net)
        ema.update(net)
        assert_same(copies[0], student_in(states[step - step % steps]))
        assert_same(*copies)


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


class Epochs:
    """Finished epochs, as the trainer knows them, and which files were read."""

    def __init__(self, states: list[dict[str, torch.Tensor]], values: list[float]):
        self.states = [student_in(state).state_dict() for state in states]
        self.values = values
        self.read_epochs: list[int] = []

    def read(self, epoch: int) -> dict[str, torch.Tensor]:
        """Return the model of an epoch, counted from 1."""
        self.read_epochs.append(epoch)
        return self.states[epoch - 1]

    def begin(self, teacher: teachers.Teacher, student: Net, epoch: int) -> None:
        """Begin an epoch: all before it are finished."""
        finished = list(enumerate(self.values[: epoch - 1], start=1))
        teacher.begin_epoch(student, finished, self.read)


def test_topn_from_before_its_birth_to_the_average_of_the_best() -> None:
    states = trajectory(5)
    epochs = Epochs(states, [3.0, math.nan, 1.0, 2.0, 9.0])
    teacher, net = teachers.build("topn", n=2), student_in(states[0])
    assert (teacher.keep, teacher.criterion) == (2, ("valid", "cer_ctc", "min"))
    epochs.begin(teacher, net, 1)
    epochs.begin(teacher, net, 2)
    assert not teacher.born and epochs.read_epochs == []
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


def test_only_topn_asks_for_epochs() -> None:
    for name in set(teachers.available()) - {"topn"}:
        teacher = teachers.build(name, **SETTINGS[name][0])
        assert teacher.keep == 0 and teacher.criterion is None
        teacher.module(Net())
        teacher.begin_epoch(Net(), [(1, 0.5)], lambda epoch: pytest.fail("read"))


def drive(
    teacher: teachers.Teacher,
    states: list[dict[str, torch.Tensor]],
    steps: range,
) -> None:
    """Run a teacher through steps of a training: epochs, birth, updates."""
    epochs = Epochs(states[EPOCH::EPOCH], [2.0, 1.0, 3.0])
    for step in steps:
        if step % EPOCH == 0:
            epochs.begin(teacher, student_in(states[step]), 1 + step // EPOCH)
        if step >= BIRTH:
            teacher.module(student_in(states[step]))
        teacher.update(student_in(states[step + 1]))


@every_teacher
def test_resume_at_any_step_is_exact(name, conf) -> None:
    states = trajectory(STEPS)
    last = student_in(states[-1])
    whole = teachers.build(name, **conf)
    drive(whole, states, range(STEPS))
    for cut in range(STEPS):
        first, second = teachers.build(name, **conf), teachers.build(name, **conf)
        drive(first, states, range(cut))
        second.load_state_dict(by_save(first.state_dict()), student_in(states[cut]))
        drive(second, states, range(cut, STEPS))
        assert_same(second.module(last), whole.module(last))
        mine, theirs = second.state_dict(), whole.state_dict()
        mine.pop("model", None), theirs.pop("model", None)
        assert mine == theirs and mine["kind"] == name


@every_teacher
def test_a_state_can_be_restored_into_a_teacher_that_went_on(name, conf) -> None:
    """As the guard's back-off does, before and after birth."""
    states = trajectory(STEPS)
    for cut in (0, 9):
        teacher = teachers.build(name, **conf)
        drive(teacher, states, range(cut))
        saved = by_save(teacher.state_dict())
        drive(teacher, states, range(cut, STEPS))
        teacher.load_state_dict(saved, student_in(states[cut]))
        again = by_save(teacher.state_dict())
        weights, restored = saved.pop("model", None), again.pop("model", None)
        assert saved == again
        assert (weights is None) == (restored is None)
        for key, value in (weights or {}).items():
            assert torch.equal(value, restored[key])


def test_state_before_birth() -> None:
    teacher, net = teachers.build("ema"), Net()
    assert teacher.state_dict()["model"] is None
    restored = teachers.build("ema")
    restored.module(Net())
    restored.load_state_dict(teacher.state_dict(), net)
    assert not restored.born


@pytest.mark.parametrize("name", sorted(SETTINGS))
@pytest.mark.parametrize("other", sorted(SETTINGS))
def test_the_state_of_another_kind_is_refused(name, other) -> None:
    net = Net()
    teacher, saved = (teachers.build(n, **SETTINGS[n][0]) for n in (name, other))
    module = teacher.module(net)
    saved.module(Net())
    if name == other:
        teacher.load_state_dict(saved.state_dict(), net)
        return
    with pytest.raises(UserError, match=f"of a teacher '{other}'.*is '{name}'"):
        teacher.load_state_dict(saved.state_dict(), net)
    assert teacher.module(net) is module


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda w: w.pop("norm.bias"), r"1 missing \(norm.bias\)"),
        (lambda w: w.update(extra=torch.ones(1)), r"1 unknown \(extra\)"),
        (
            lambda w: w.update({"body.weight": torch.ones(3, 4)}),
            r"1 of another shape \(body.weight\)",
        ),
    ],
)
def test_the_state_of_another_model_is_refused(
    change: Callable[[dict], Any], message: str
) -> None:
    net, teacher = Net(), teachers.build("ema")
    state = teachers.build("ema").state_dict()
    state["model"] = dict(Net().state_dict())
    change(state["model"])
    with pytest.raises(UserError, match=message):
        teacher.load_state_dict(state, net)
    assert not teacher.born


def test_the_weights_are_a_stock_state() -> None:
    """They are saved as teacher.pth."""
    for name in ("delayed", "ema", "frozen", "topn"):
        net, teacher = Net(), teachers.build(name, **SETTINGS[name][0])
        teacher.module(net)
        weights = by_save(teacher.state_dict()["model"])
        Net().load_state_dict(weights)
    assert "model" not in teachers.build("student").state_dict()


def test_frozen_and_tied_parameters() -> None:
    net = Net()
    net.head = torch.nn.Linear(3, 3)
    net.head.weight = net.body.weight
    net.norm.weight.requires_grad_(False)
    teacher = teachers.build("ema", decay=0.5)
    copy = teacher.module(net)
    start = copy.body.weight.clone()
    with torch.no_grad():
        net.body.weight += 1.0
    teacher.update(net)
    assert copy.head.weight is copy.body.weight
    torch.testing.assert_close(copy.head.weight, start + 0.5)
    assert torch.equal(copy.norm.weight, net.norm.weight)
    assert not net.norm.weight.requires_grad and net.body.weight.requires_grad


class Merging(torch.nn.Linear):
    """A low-rank adapter that eval() merges into the weight, as loralib's does."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.weight.requires_grad_(False)
        self.adapter = torch.nn.Parameter(torch.full((3, 3), 0.5))
        self.merged = False

    def train(self, mode: bool = True) -> Merging:
        """Merge when training ends, unmerge when it begins."""
        super().train(mode)
        if self.merged == mode:
            self.weight.data += -self.adapter.data if mode else self.adapter.data
            self.merged = not mode
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the weight, and the adapter where it is not merged."""
        y = super().forward(x)
        return y if self.merged else y + x @ self.adapter.T


def test_adapters_are_not_merged() -> None:
    """A merged teacher would follow a weight that lacks the adapter."""
    net, x = Merging(), torch.randn(2, 3)
    weight, labels = net.weight.detach().clone(), net(x).detach()
    for name, conf in (("ema", {"decay": 0.5}), ("student", {})):
        teacher = teachers.build(name, **conf)
        for _ in range(5):
            with evaluating(teacher.module(net)) as module:
                torch.testing.assert_close(module(x), labels)
            assert torch.equal(net.weight, weight) and not net.merged
            teacher.update(net)
    net(x).sum().backward()
    assert net.adapter.grad is not None


def test_follow_refuses_another_structure() -> None:
    student = Net()
    student.extra = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="zip"):
        follow(teachers.frozen_copy(Net()), student, 0.5)
    empty = torch.nn.Identity()  # Nothing to follow, nothing to fail.
    follow(teachers.frozen_copy(empty), empty, 0.5)


def test_evaluating_restores_every_part() -> None:
    net = Net()
    net.norm.eval()  # a part that its owner keeps in eval mode
    with evaluating(net):
        assert not any(part.training for part in net.modules())
    assert net.training and net.drop.training and not net.norm.training


def test_a_users_own_teacher_by_dotted_path() -> None:
    teacher = teachers.build(f"{__name__}:Mine", noise=0.5)
    assert (teacher.noise, teacher.kind) == (0.5, "Mine")
    with pytest.raises(UserError, match="of a teacher 'frozen'"):
        teacher.load_state_dict(teachers.build("frozen").state_dict(), Net())


@pytest.mark.parametrize(
    "name, conf, message",
    [
        ("emma", {}, "unknown teacher 'emma'. Did you mean 'ema'"),
        ("ema", {"decay": 1.5}, r"decay must be a number in \[0, 1\], got 1.5"),
        ("ema", {"decay": float("nan")}, "decay"),
        ("ema", {"half_life_steps": 0}, "half_life_steps .* > 0"),
        ("ema", {"half_life_steps": float("inf")}, "half_life_steps"),
        ("ema", {"decay": 0.9, "half_life_steps": 5}, "not both"),
        ("ema", {"decay": 0.9, "retention": 0.5, "steps_per_epoch": 9}, "not both"),
        ("ema", {"retention": 0.5}, "retention and steps_per_epoch together"),
        ("ema", {"steps_per_epoch": 9}, "retention and steps_per_epoch together"),
        ("ema", {"retention": 0.0, "steps_per_epoch": 9}, r"retention .*\(0, 1\]"),
        ("ema", {"retention": 1.1, "steps_per_epoch": 9}, r"retention .*\(0, 1\]"),
        ("ema", {"retention": 0.5, "steps_per_epoch": 0}, "steps_per_epoch .* >= 1"),
        ("ema", {"every_steps": 0}, "every_steps must be an integer >= 1, got 0"),
        ("ema", {"every_steps": 1.5}, "every_steps must be an integer"),
        ("ema", {"warmup": "no"}, "warmup must be true or false"),
        ("ema", {"buffers": "keep"}, "buffers must be one of copy, average"),
        ("ema", {"momentum": 0.9}, "unknown key"),
        ("student", {"decay": 0.9}, "unknown key"),
        ("delayed", {}, "steps"),
        ("delayed", {"steps": 0}, r"pl_teacher_conf: steps must be an integer >= 1"),
        ("topn", {"n": 0}, "n must be an integer >= 1"),
        ("topn", {"criterion": "valid"}, "criterion must be three words"),
        ("topn", {"criterion": ["valid", "acc"]}, "criterion must be three words"),
        ("topn", {"criterion": ["valid", "", "max"]}, "criterion must be three words"),
        ("topn", {"criterion": 3}, "criterion"),
        ("topn", {"criterion": ["test", "acc", "max"]}, "train, valid, got 'test'"),
        ("topn", {"criterion": ["valid", "acc", "best"]}, "min, max, got 'best'"),
    ],
)
def test_bad_settings_are_refused(name, conf, message) -> None:
    with pytest.raises(ValueError, match=message):
        teachers.build(name, **conf)
