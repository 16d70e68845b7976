"""The student of some steps ago."""

from __future__ import annotations

import pytest

from espnet_softpl import teacher as teachers
from tests.support.teachers import assert_same, student_in, trajectory
from tests.teacher.test_base import STEPS


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
