"""What `--help` says of the parts that YAML keys name: made from their docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from espnet_softpl import cache, criteria, filters, regularizers, shaping, teacher
from espnet_softpl.monitors import guard
from espnet_softpl.training.schedule import Schedule

WIDTH = 64  # Columns of help text, beside the 24 that argparse leaves for options.


SECTION = re.compile(r"^(?:Args|Attributes):\n((?:[ ]{4}.*\n|\n)+)", re.M)


ENTRY = re.compile(r"^ {4}(\w+): ((?:.*\n)(?:(?: {5,}.*)?\n)*)", re.M)


def described(factory: Callable[..., Any]) -> dict[str, str]:
    """Read what a class's docstring says of its settings.

    Args:
        factory: A class or function with a docstring in Google's style.

    Returns:
        The text by name, of base classes too; empty where Python drops docstrings.
    """
    found: dict[str, str] = {}
    for cls in reversed(getattr(factory, "__mro__", (factory,))):
        text = inspect.cleandoc(cls.__doc__ or "") + "\n"
        for section in SECTION.findall(text):
            for name, entry in ENTRY.findall(section):
                found[name] = " ".join(entry.split())
    return found


def settings(factory: Callable[..., Any], left_out: tuple[str, ...] = ()) -> list[str]:
    """List the settings of a part: name, default, and what it is.

    Args:
        factory: A class or function with keyword arguments.
        left_out: Names that are not settings of the user.

    Returns:
        One text per setting, e.g. `alpha=0.5: share, in [0, 1]`.
    """
    texts = described(factory)
    lines = []
    for name, parameter in inspect.signature(factory).parameters.items():
        if name in left_out or parameter.kind is parameter.VAR_KEYWORD:
            continue
        default = parameter.default
        given = "" if default is parameter.empty else f"={default}"
        lines.append(f"{name}{given}: {texts.get(name, '')}".removesuffix(": "))
    return lines


def wrapped(text: str, indent: str = "") -> str:
    """Break a text into lines, for a help that is shown as it is written.

    Args:
        text: Words, on any number of lines.
        indent: What all lines but the first begin with; that has four spaces less.

    Returns:
        The lines, with percent signs doubled as argparse wants them.
    """
    lines = textwrap.fill(
        " ".join(text.split()),
        WIDTH,
        initial_indent=indent[:-4],
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines.replace("%", "%%")


def help_of(
    what: str,
    parts: Mapping[str, Callable[..., Any]],
    left_out: tuple[str, ...] = (),
) -> str:
    """Describe an option that takes the settings of a part.

    Args:
        what: What the option is, and how it is given.
        parts: The classes by name; the name "" stands for the only one.
        left_out: Names that are not settings of the user.

    Returns:
        The help text, one line or more per setting.
    """
    lines = [f"{wrapped(what)} (default: %(default)s)"]
    for name, factory in parts.items():
        listed = settings(factory, left_out)
        if name:
            lines.append(f"{name}:" if listed else f"{name}: no settings")
        lines += [wrapped(text, " " * 6) for text in listed]
    return "\n".join(lines)


def part_helps() -> dict[str, str]:
    """Return the help of every `pl_<part>_conf`, by the part."""
    several = "; of several {0}s by name, as {1}"
    helps = {}
    for name, more, parts in (
        ("criterion", "", criteria.base.REGISTRY.classes()),
        (
            "regularizer",
            several.format("regularizer", "mean_entropy.weight=0.1"),
            regularizers.base.REGISTRY.classes(),
        ),
        (
            "shaping",
            several.format("shaping", "sharpen.temperature=0.5"),
            shaping.base.REGISTRY.classes(),
        ),
        ("guard", "", {"": guard.Guard}),
        ("teacher", "", teacher.REGISTRY.classes()),
        ("cache", "", cache.REGISTRY.classes()),
        (
            "filter",
            several.format("filter", "tokens.min_tokens=2"),
            filters.base.REGISTRY.classes(),
        ),
        ("schedule", " (steps are mini-batches)", {"": Schedule}),
    ):
        what = f"Settings of the {name}{more}"
        helps[name] = help_of(what, parts, left_out=("action",))
    return helps
