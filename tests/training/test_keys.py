"""The table of keys: what a list of them shows."""

from __future__ import annotations

from espnet_softpl.training.keys import OTHERS, PARTS, helps


def test_every_key_but_settings_of_parts_has_a_help() -> None:
    left_out = {option.removeprefix("--") for option in (*PARTS, *OTHERS)} - {*helps()}
    assert all(key.endswith("_conf") for key in left_out)
    assert {key.removesuffix("_conf") for key in left_out} <= {*helps()}
    assert "pl_schedule_conf" in helps() and all(text for _, text in helps().values())


def test_defaults_stand_with_their_helps() -> None:
    assert helps()["pl_teacher"] == ("ema", "Who labels")
    assert helps()["pl_samples"][0] == 8
