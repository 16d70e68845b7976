"""Parts of the engine that a resumed run brings back."""

from __future__ import annotations

from espnet_softpl.core.stateful import Stateful


def test_there_is_no_state_unless_a_subclass_has_one() -> None:
    part = Stateful()
    assert part.state_dict() == {}
    part.load_state_dict({})
