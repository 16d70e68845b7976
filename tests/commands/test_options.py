"""The pages of `softpl options`."""

from __future__ import annotations

import inspect

import pytest

from espnet_softpl import criteria
from espnet_softpl.commands.options import WIDTH, describe, list_keys
from espnet_softpl.core.errors import UserError
from espnet_softpl.training.keys import helps
from espnet_softpl.training.options import REGISTRIES


def test_each_key_has_a_line() -> None:
    lines = list_keys().splitlines()
    titles = [line for line in lines if not line.startswith("  ")]
    assert len(titles) == 3 and len(lines) == 3 + len(helps())
    assert {line.split()[0] for line in lines if line not in titles} == {*helps()}
    assert max(map(len, lines)) <= WIDTH + 8


@pytest.mark.parametrize("key", list(helps()))
def test_each_key_has_a_page_with_what_it_may_be(key: str) -> None:
    page = describe(key)
    assert page.startswith(f"{key} (default: ")
    registry = REGISTRIES.get(key)
    assert all(name in page.split() or f"{name}," in page for name in _names(registry))


def _names(registry) -> tuple[str, ...]:
    return () if registry is None else registry.available()


@pytest.mark.parametrize(
    ("key", "name"),
    [(key, name) for key, parts in REGISTRIES.items() for name in parts.available()],
)
def test_each_part_has_a_page_with_docstring_and_settings(key, name) -> None:
    part = REGISTRIES[key].get_class(name)
    lines = describe(key, name).splitlines()
    doc = inspect.cleandoc(getattr(part, "func", part).__doc__).splitlines()
    assert lines[:2] == [f"{key}: {name}", doc[0]]
    assert not {"Args:", "Attributes:", "Raises:"} & set(lines)
    settings = lines[[line.startswith(f"{key}_conf:") for line in lines].index(True) :]
    for setting, parameter in inspect.signature(part).parameters.items():
        if parameter.kind is not parameter.VAR_KEYWORD:
            assert any(line.startswith(f"  {setting}") for line in settings), setting


class Mine(criteria.HardCTC):
    """A criterion of one's own.

    Args:
        size: How large.
    """

    def __init__(self, size: int = 3) -> None:
        super().__init__()


def test_settings_and_ones_own_parts() -> None:
    assert describe("pl_criterion_conf") == describe("pl_criterion")
    assert "  start_step=0: Number of labeled steps" in describe("pl_schedule_conf")
    page = describe("pl_criterion", f"{__name__}:Mine")
    assert "A criterion of one's own." in page and "  size=3: How large." in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pl_criteron"], "unknown key 'pl_criteron'. Did you mean 'pl_criterion'?"),
        (["pl_criterion", "soft_ct"], "Did you mean 'soft_ctc'?"),
        (["pl_samples", "9"], "pl_samples: has no parts to explain"),
        (["pl_schedule_conf", "block"], "pl_schedule_conf: has no parts to explain"),
    ],
)
def test_what_is_unknown_is_refused(words, message) -> None:
    with pytest.raises(UserError) as error:
        describe(*words)
    assert message in str(error.value)
