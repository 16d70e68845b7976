"""The pages of `softpl options`, from the keys' help, registries and docstrings."""

from __future__ import annotations

import inspect
import itertools
import re
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from espnet_softpl.core.errors import UserError
from espnet_softpl.core.registry import did_you_mean
from espnet_softpl.training.keys import PARTS, helps

WIDTH = 88
# What a page leaves out of a docstring: settings come with their defaults.
SECTIONS = re.compile(r"^(?:Args|Attributes|Raises):\n(?:[ ]{4}.*\n|\n)+", re.M)


def _filled(text: str, indent: str) -> str:
    """Break a text into lines, the first four columns to the left of the others."""
    wrapper = textwrap.TextWrapper(WIDTH, indent.removesuffix("    "), indent)
    wrapper.break_long_words = wrapper.break_on_hyphens = False
    return wrapper.fill(" ".join(text.split()))


def _table(rows: Mapping[str, str]) -> list[str]:
    """Lay out names and texts of a line each in two columns."""
    wide = max(map(len, rows))
    return [f"  {name:<{wide}}  {text}".rstrip() for name, text in rows.items()]


def list_keys() -> str:
    """Return all keys by kind, a line each, without importing the parts."""
    parts = "Parts, with settings under <key>_conf"
    data, more = "Unlabeled data", "More"
    kinds: dict[str, dict[str, str]] = {parts: {}, data: {}, more: {}}
    for key, (default, text) in helps().items():
        line = text.partition(". ")[0]
        if default not in (None, {}, []):
            shown = " ".join(default) if isinstance(default, list) else str(default)
            line += f" ({shown.lower()})"
        other = data if key.startswith("unlabeled_") else more
        kinds[parts if f"--{key}" in PARTS else other][key] = line
    lines = ([f"{title}:", *_table(rows)] for title, rows in kinds.items())
    return "\n".join(itertools.chain(*lines))


def describe(key: str, name: str | None = None) -> str:
    """Return what a key may be, or what one of its names, or `module:Class`, is."""
    from espnet_softpl.training.options import REGISTRIES, classes_of

    known = helps()
    if key.endswith("_conf") and key not in known:
        key = key.removesuffix("_conf")
    if key not in known:
        hint = did_you_mean(key, known)
        raise UserError(f"unknown key {key!r}.{hint} Allowed: {', '.join(known)}.")
    default, text = known[key]
    page = [f"{key} (default: {default})", _filled(text, "  ")]
    part = key.removesuffix("_conf")
    registry = REGISTRIES.get(part)
    if name is not None:
        if registry is None:
            raise UserError(f"{key}: has no parts to explain, so no {name!r}")
        title = f"{part}: {name}"
        return "\n".join([title, *_part(f"{part}_conf", registry.get_class(name))])
    if f"--{part}_conf" not in PARTS:
        return "\n".join(page)
    classes = classes_of(part)
    if "" in classes:
        page[1:] = [f"  Allowed: {registry.allowed()}"] if registry else []
        return "\n".join([*page, *_part(f"{part}_conf", classes[""])])
    rows = {name: _doc(cls).partition("\n")[0] for name, cls in classes.items()}
    more = f"Or your own as 'module:Class'. More: softpl options {key} NAME"
    return "\n".join([*page, *_table(rows), more])


def _doc(part: Callable[..., Any]) -> str:
    return inspect.cleandoc(getattr(part, "func", part).__doc__ or "")


def _part(conf: str, part: Callable[..., Any]) -> list[str]:
    """Return a part's docstring, and its settings with those of its bases."""
    from espnet_softpl.training.options import settings

    text = SECTIONS.sub("", _doc(part) + "\n").strip()
    own = [_filled(line, " " * 6) for line in settings(part)]
    return [text, "", f"{conf}:" if own else f"{conf}: no settings", *own]
