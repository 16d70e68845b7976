"""Teachers: who follows whom, in which mode and precision, exactly resumed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from espnet_softpl import teacher as teachers
from espnet_softpl.core.errors import UserError
from espnet_softpl.core.modules import evaluating
from tests.support.teachers import Net, assert_same, by_save, student_in, trajectory
from tests.teacher.test_topn import Epochs

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

STEPS, COPY, EPOCH = 14, 2, 4  # Optimizer steps: all, before the copy, of one epoch.


class Mine(teachers.FrozenTeacher):
    """A user's own teacher, named by dotted path."""

    def __init__(self, noise: float) -> None:
        super().__init__()
        self.noise = noise


def test_the_table_covers_every_teacher() -> None:
    assert set(SETTINGS) == set(teachers.available())
    assert teachers.available() == ("delayed", "ema", "frozen", "student", "topn")


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
    """Run a teacher through steps of a training: epochs, the copy, updates."""
    epochs = Epochs(states[EPOCH::EPOCH], [2.0, 1.0, 3.0])
    teacher.begin_run(10 * STEPS)
    for step in steps:
        if step % EPOCH == 0:
            epochs.begin(teacher, student_in(states[step]), 1 + step // EPOCH)
        if step >= COPY:
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
    """As the guard's back-off does, before and after the copy."""
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


def test_the_weights_are_a_stock_state() -> None:
    """They are saved as teacher.pth."""
    for name in ("delayed", "ema", "frozen", "topn"):
        net, teacher = Net(), teachers.build(name, **SETTINGS[name][0])
        teacher.module(net)
        weights = by_save(teacher.state_dict()["model"])
        Net().load_state_dict(weights)
    assert "model" not in teachers.build("student").state_dict()


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
