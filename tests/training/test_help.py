"""`--help` of every command says what a value may be.

Commands are found in `espnet_softpl/bin`, so that a new one is judged as well.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from espnet_softpl import cache, criteria, filters, regularizers, shaping, teacher
from espnet_softpl.monitors import guard
from espnet_softpl.training.options import WIDTH, described, help_of, settings, wrapped
from espnet_softpl.training.schedule import Schedule
from tests import ROOT

COMMANDS = sorted(f.stem for f in (ROOT / "espnet_softpl/bin").glob("[!_]*.py"))
# What a number's help must name: its unit, or what it may be.
UNIT_OR_RANGE = re.compile(
    r"\b(samples?|seconds?|minutes?|hours?|hz|frames?|tokens?|utterances?|speakers?|"
    r"mini-batch(es)?|steps?|epochs?|megabytes?|mb|gib|bytes|percent|share|lines?|"
    r"process(es)?|threads?|cores|pixels|dpi|nats?|multiple|\d+ to \d+|at least|"
    r"at most|greater than|less than|between)\b|[\[(]\d+, ",
    re.I,
)
PARTS = {
    "criterion": criteria.REGISTRY.classes(),
    "regularizer": regularizers.REGISTRY.classes(),
    "shaping": shaping.REGISTRY.classes(),
    "filter": filters.REGISTRY.classes(),
    "teacher": teacher.REGISTRY.classes(),
    "cache": cache.REGISTRY.classes(),
    "guard": {"": guard.Guard},
    "schedule": {"": Schedule},
}


@functools.cache
def parser_of(name: str) -> argparse.ArgumentParser:
    """Return the parser that a command's `--help` prints."""
    main = importlib.import_module(f"espnet_softpl.bin.{name}").main
    found: list[argparse.ArgumentParser] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            argparse.ArgumentParser,
            "print_help",
            lambda self, _=None: found.append(self),
        )
        with pytest.raises(SystemExit) as ended:
            main(["--help-all" if name == "train" else "--help"])
    assert ended.value.code == 0
    (parser,) = found
    return parser


def actions_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the options that are ours, those of sub-commands included."""
    groups = {group.title: group for group in parser._action_groups}
    ours = groups.get("Pseudo-labeling related")
    for action in parser._actions if ours is None else ours._group_actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from actions_of(inner)
        elif not isinstance(action, argparse._HelpAction):
            yield action


def is_number(convert: Callable[[str], Any] | None) -> bool:
    """Tell whether a type of argparse makes numbers: of any digit, and of no word."""
    try:
        value = (convert or str)("1")
    except (ValueError, argparse.ArgumentTypeError):
        return False
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def lacks(parser: argparse.ArgumentParser, action: argparse.Action) -> list[str]:
    """Return what the help of an option should say and does not."""
    formatter = parser._get_formatter()
    text = formatter._expand_help(action) if action.help else ""
    shown = f"{formatter.add_argument(action) or ''}{formatter.format_help()}"
    wrong = []
    if len(re.findall(r"\w+", text)) < 2:
        wrong.append("a description")
    if action.nargs == 0:
        return wrong
    positional = not action.option_strings and action.nargs not in ("?", "*")
    one_of = [g for g in parser._mutually_exclusive_groups if g.required]
    chosen = any(action in group._group_actions for group in one_of)
    has_default = not (action.required or positional or chosen)
    if has_default and action.default is not argparse.SUPPRESS:
        if "default" not in text and "if not given" not in text:
            wrong.append("its default")
        if text.count("(default") > 1:
            wrong.append("its default once")
    if is_number(action.type) and not UNIT_OR_RANGE.search(text):
        wrong.append("a unit or legal values")
    if action.choices and not all(str(c) in shown for c in action.choices):
        wrong.append("its choices")
    if "bool" in getattr(action.type, "__name__", "") and "true" not in text:
        wrong.append("true and false")
    return wrong


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_takes(name: str) -> None:
    parser = parser_of(name)
    actions = list(actions_of(parser))
    assert actions and parser.description
    wrong = {action.dest: lacks(parser, action) for action in actions}
    assert not {dest: what for dest, what in wrong.items() if what}


@pytest.mark.parametrize(
    ("given", "what"),
    [
        (dict(help="size of it in seconds"), "its default"),
        (dict(help="size (default 1)"), "a unit or legal values"),
        (dict(help="size, at least 1 (default 1) (default 1)"), "its default once"),
        (dict(), "a description"),
    ],
)
def test_the_test_sees_what_is_not_said(given: dict[str, str], what: str) -> None:
    parser = argparse.ArgumentParser()
    action = parser.add_argument("--size", type=int, default=1, **given)
    assert what in lacks(parser, action)
    choice = parser.add_argument(
        "--kind",
        choices=["x1", "x2"],
        metavar="K",
        default="x1",
        help="what (default x1)",
    )
    assert lacks(parser, choice) == ["its choices"]


@pytest.mark.parametrize("key", sorted(PARTS))
def test_every_setting_of_every_part_is_in_the_help(key: str) -> None:
    parser = parser_of("train")
    (action,) = (a for a in parser._actions if a.dest == f"pl_{key}_conf")
    words = " ".join(action.help.split())
    for name, factory in PARTS[key].items():
        assert name in words
        for setting, parameter in inspect.signature(factory).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD or setting == "action":
                continue
            text = described(factory)[setting].replace("%", "%%")
            assert f"{setting}" in words and text in words, (name, setting)
            if parameter.default is not parameter.empty:
                assert f" {setting}={parameter.default}: " in words


@pytest.mark.parametrize("key", sorted(PARTS.keys() - {"schedule"}))
def test_every_name_is_in_the_help(key: str) -> None:
    parser = parser_of("train")
    (action,) = (a for a in parser._actions if a.dest == f"pl_{key}")
    names = guard.ACTIONS if key == "guard" else PARTS[key]
    assert {*names} <= {*re.findall(r"\w+", action.help)}
    assert "or your own as 'module:Class'" in " ".join(action.help.split())


class Part:
    """A part with settings.

    Args:
        size: How many, at least 1; 50 % of
            them by default.

    Raises:
        ValueError: Never: this is no setting.
    """

    def __init__(self, size: int, extra: float = 0.5, **more: int) -> None:
        self.sizes = (size, extra, more)


def test_settings_come_from_the_docstring() -> None:
    assert described(Part) == {"size": "How many, at least 1; 50 % of them by default."}
    first, second = settings(Part)
    assert list(settings(functools.partial(Part, 3))) == [second]
    assert first == "size: How many, at least 1; 50 % of them by default."
    assert second == "extra=0.5"
    text = help_of("Settings", {"one": Part, "two": object}) % dict(default={})
    assert text.splitlines() == [
        "Settings (default: {})",
        "one:",
        "  size: How many, at least 1; 50 % of them by default.",
        "  extra=0.5",
        "two: no settings",
    ]
    long = wrapped("word " * 40, " " * 6).splitlines()
    assert len(long) > 2 and all(len(line) <= WIDTH for line in long)
