"""Names and settings from YAML: one part, or several."""

import pytest

from espnet_softpl.core.registry import named_confs


def test_settings_of_one_and_of_several_parts() -> None:
    one = named_confs("pl_x", "a", {"weight": 1})
    assert (
        one == named_confs("pl_x", ["a"], {"a": {"weight": 1}}) == {"a": {"weight": 1}}
    )
    assert named_confs("pl_x", ["b", "a"], {"a": {"weight": 1}}) == {
        "b": {},
        "a": {"weight": 1},
    }
    assert named_confs("pl_x", [], {}) == {}
    assert list(named_confs("pl_x", ["b", "a"], {})) == ["b", "a"]


@pytest.mark.parametrize(
    "names, conf, message",
    [
        (["a", "a"], {}, "twice"),
        (["a", "b"], {"weight": 1}, "'weight' is not among"),
        (["a", "b"], {"c": {}}, "'c' is not among"),
        ([], {"weight": 1}, "'weight' is not among"),
    ],
)
def test_settings_of_nobody_are_refused(names, conf, message) -> None:
    with pytest.raises(ValueError, match=message):
        named_confs("pl_x", names, conf)
