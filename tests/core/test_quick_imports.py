"""Typeguard's checks are of first calls, compiled then; g2p_en waits for its use."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable

import pytest
import typeguard

from espnet_softpl.core.quick_imports import postpone, quick_imports

SOURCE = """
from typeguard import ForwardRefPolicy, typechecked

@typechecked
def plain(number: int) -> int:
    return number

@typechecked(forward_ref_policy=ForwardRefPolicy.WARN)
def with_arguments(number: int) -> int:
    return number

class Part:
    @typechecked
    def method(self, number: int) -> int:
        return number

    @classmethod
    @typechecked
    def of_class(cls, number: int) -> int:
        return number

method, of_class = Part().method, Part.of_class
"""
FUNCTIONS = ("plain", "with_arguments", "method", "of_class")


def define(name: str, tmp_path, monkeypatch) -> list[Callable[[object], object]]:
    """Import a module of this name, which has decorated functions."""
    package, _, module = name.rpartition(".")
    (tmp_path / f"{module}.py").write_text(SOURCE)
    spec = importlib.util.spec_from_file_location(name, tmp_path / f"{module}.py")
    made = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, made)
    spec.loader.exec_module(made)
    return [getattr(made, function) for function in FUNCTIONS]


def is_checked(function: Callable[[object], object]) -> bool:
    try:
        return function("no number") != "no number"
    except typeguard.TypeCheckError:
        return True


def test_checks_are_compiled_at_the_first_call(tmp_path, monkeypatch) -> None:
    compiled: list[str] = []
    eager = typeguard.typechecked

    def count(target, **options):
        compiled.append(target.__name__)
        return eager(target, **options)

    monkeypatch.setattr(typeguard, "typechecked", count)
    with quick_imports():
        functions = define("espnet2.made_up", tmp_path, monkeypatch)
    assert compiled == []
    assert all(map(is_checked, functions))
    assert sorted(compiled) == sorted(FUNCTIONS)
    assert all(map(is_checked, functions))  # None has passed yet.
    assert [function(3) for function in functions] == [3] * 4
    assert not any(map(is_checked, functions))
    assert len(compiled) == 4  # Once each.
    assert [function.__name__ for function in functions] == list(FUNCTIONS)


def test_typeguard_is_as_before_also_after_an_error(tmp_path, monkeypatch) -> None:
    before = typeguard.typechecked
    with pytest.raises(ImportError), quick_imports():
        assert typeguard.typechecked is not before
        raise ImportError
    assert typeguard.typechecked is before
    assert all(map(is_checked, define("espnet2.made_up", tmp_path, monkeypatch)))


def test_nothing_happens_without_typeguard(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "typeguard", None)  # Importing it fails.
    with quick_imports() as nothing:
        assert nothing is None


def test_a_package_is_imported_when_it_is_first_used(tmp_path, monkeypatch) -> None:
    package = tmp_path / "made_up_words"
    package.mkdir()
    (package / "__init__.py").write_text("from made_up_words.part import spell\n")
    (package / "part.py").write_text("def spell(word):\n    return [*word]\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    try:
        postpone("made_up_words")
        import made_up_words

        # As inspect does with every module.
        assert made_up_words.__file__ == str(package / "__init__.py")
        assert not hasattr(made_up_words, "__warningregistry__")
        assert "made_up_words.part" not in sys.modules
        assert made_up_words.spell("AB") == ["A", "B"]
        assert "made_up_words.part" in sys.modules
        with pytest.raises(AttributeError, match="say"):
            made_up_words.say  # noqa: B018
        # What has been imported, or is not there, stays as it is.
        imported = sys.modules["made_up_words"]
        postpone("made_up_words")
        assert sys.modules["made_up_words"] is imported is not made_up_words
        postpone("made_up_numbers")
        assert "made_up_numbers" not in sys.modules
    finally:
        for name in set(sys.modules) - before:
            del sys.modules[name]
