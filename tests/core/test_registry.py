"""Names and settings from YAML: registered classes, a user's own, one or several."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from espnet_softpl import cache, criteria, filters, regularizers, shaping, teacher
from espnet_softpl.core.errors import UserError
from espnet_softpl.core.registry import Registry, Stateful, build_from_conf, named_confs
from espnet_softpl.monitors import guard


class Part:
    """A base class."""

    def __init__(self, size: int = 1) -> None:
        if size < 1:
            raise ValueError(f"size must be an integer >= 1, got {size}")
        self.size = size


class Named(Part):
    """Its own setting has the name of the registry's argument."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


def registry(optional: bool = False) -> Registry[Part]:
    made: Registry[Part] = Registry("pl_part", Part, optional)
    made.register("plain")(Part)
    made.register("big")(functools.partial(Part, 9))
    return made


def test_parts_are_built_by_name_or_path() -> None:
    parts = registry()
    assert parts.available() == ("big", "plain") == tuple(parts.classes())
    assert parts.build("plain", size=3).size == 3 and parts.build("big").size == 9
    assert parts.build(f"{__name__}:Named", name="x").name == "x"


@pytest.mark.parametrize(
    "name, conf, message",
    [
        (
            "pain",
            {},
            "pl_part: unknown part 'pain'. Did you mean 'plain'? Allowed: big, plain, "
            "or your own as 'module:Class'.",
        ),
        ("none", {}, "unknown part 'none'"),
        ("nowhere.to.be:Found", {}, "pl_part: cannot load 'nowhere.to.be:Found'"),
        (f"{__name__}:Missing", {}, "cannot load"),
        (":Part", {}, "cannot load"),
        ("argparse:Namespace", {}, f"is not a subclass of {__name__}.Part"),
        (f"{__name__}:registry", {}, "is not a subclass"),
        ("plain", {"size": 0}, "pl_part_conf: size must be an integer >= 1, got 0"),
        ("plain", {"size": "x"}, "pl_part_conf: '<' not supported"),
        ("plain", {"sise": 2}, "unknown key 'sise'. Did you mean 'size'? Allowed: s"),
        (f"{__name__}:Named", {}, "pl_part_conf: .*missing"),
    ],
)
def test_what_cannot_be_built_is_refused(name, conf, message) -> None:
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        registry().build(name, **conf)


def test_an_optional_part_may_be_none() -> None:
    parts = registry(optional=True)
    assert parts.build("none", size=0) is None and parts.build(None) is None
    assert parts.allowed() == "big, plain, none, or your own as 'module:Class'"


def test_a_part_without_settings_says_so() -> None:
    with pytest.raises(UserError, match="Allowed: none .it has no settings"):
        build_from_conf(object, {"size": 1}, "pl_x_conf")


class OwnCache(cache.SlimIPL):
    """A user's own, as the six below."""


class OwnCriterion(criteria.HardCTC):
    """Another criterion."""


class OwnFilter(filters.TokenCount):
    """Another filter."""


class OwnGuard(guard.Guard):
    """Another guard; its action is one of its settings."""


class OwnRegularizer(regularizers.MeanEntropy):
    """Another regularizer."""


class OwnShaping(shaping.Sharpen):
    """Another shaping."""


class OwnTeacher(teacher.FrozenTeacher):
    """Another teacher."""


@pytest.mark.parametrize(
    "module, own, conf",
    [
        (cache, OwnCache, {"size": 3}),
        (criteria, OwnCriterion, {}),
        (filters, OwnFilter, {"min_tokens": 2}),
        (guard, OwnGuard, {"action": "stop", "window": 5}),
        (regularizers, OwnRegularizer, {"weight": 0.5}),
        (shaping, OwnShaping, {"temperature": 0.5}),
        (teacher, OwnTeacher, {}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_each_of_the_seven_parts_may_be_the_users_own(
    module: Any, own: type, conf: dict[str, Any]
) -> None:
    part = module.build(f"{__name__}:{own.__name__}", **conf)
    assert type(part) is own and own.__name__ not in module.available()
    assert {key: getattr(part, key) for key in conf} == conf
    key = module.REGISTRY.key
    with pytest.raises(UserError, match=f"{key}: unknown .*as 'module:Class'"):
        module.build("nobody")
    with pytest.raises(UserError, match=f"{key}: .*is not a subclass"):
        module.build("argparse:Namespace")
    with pytest.raises(UserError, match=f"{key}_conf: unknown key 'nothing'"):
        module.build(f"{__name__}:{own.__name__}", nothing=1)


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
    with pytest.raises(UserError, match=message):
        named_confs("pl_x", names, conf)


def test_there_is_no_state_unless_a_subclass_has_one() -> None:
    part = Stateful()
    assert part.state_dict() == {}
    part.load_state_dict({})
