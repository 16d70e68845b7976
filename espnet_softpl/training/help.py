"""What `--help` says of the parts that YAML keys name: made from their docstrings."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

WIDTH = 64  # Columns of help text, beside the 24 that argparse leaves for options.
SECTION = re.compile(r"^(?:Args|Attributes):\n((?:[ ]{4}.*\n|\n)+)", re.M)
ENTRY = re.compile(r"^ {4}(\w+): ((?:.*\n)(?:(?: {5,}.*)?\n)*)", re.M)


def described(factory: Callable[..., Any]) -> dict[str, str]:
    """Read what the docstrings of a class and its bases say of its settings, by name.

    The factory is a class or a partial of one. Without docstrings (`python -OO`) the
    answer is empty.
    """
    factory = getattr(factory, "func", factory)
    return {
        name: " ".join(entry.split())
        for cls in reversed(getattr(factory, "__mro__", (factory,)))
        for section in SECTION.findall(inspect.cleandoc(cls.__doc__ or "") + "\n")
        for name, entry in ENTRY.findall(section)
    }


def settings(factory: Callable[..., Any]) -> Iterator[str]:
    """Yield a text for each setting, e.g. `alpha=0.5: share, in [0, 1]`."""
    texts = described(factory)
    for name, parameter in inspect.signature(factory).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        value = parameter.default
        default = "" if value is parameter.empty else f"={value}"
        yield f"{name}{default}: {texts.get(name, '')}".removesuffix(": ")


def wrapped(text: str, indent: str = "") -> str:
    """Break a text into lines, for ESPnet shows help as it is written.

    All lines except the first begin with `indent`; that has four spaces less. Percent
    signs are doubled, as argparse wants them.
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


def help_of(what: str, parts: Mapping[str, Callable[..., Any]]) -> str:
    """Describe an option that takes settings of parts; the only part's name is ""."""
    lines = [f"{wrapped(what)} (default: %(default)s)"]
    for name, factory in parts.items():
        texts = [wrapped(text, " " * 6) for text in settings(factory)]
        if name:
            lines.append(f"{name}:" if texts else f"{name}: no settings")
        lines += texts
    return "\n".join(lines)
