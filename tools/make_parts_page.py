#!/usr/bin/env python3
"""Writes docs/parts.md: a card for each part, from the docstring of its class.

Run it after a docstring has changed: python tools/make_parts_page.py
"""

import inspect
import json
import re
from pathlib import Path

from espnet_softpl import cache, criteria, filters, regularizers, shaping, teacher

PAGE = Path(__file__).resolve().parents[1] / "docs" / "parts.md"
HEAD = """# The parts, a card each

This page is for reference. [criteria.md](criteria.md) has the tables to choose from,
the notation and examples in YAML. The settings of a part go under `<key>_conf`.

<!-- Written by tools/make_parts_page.py out of the docstrings; change those. -->
"""
FIELDS = ("Use", "Known failure", "Source")
SETTINGS = ("Settings:", "Args:", "Attributes:")


def paragraphs(cls: type) -> list[str]:
    """Return the paragraphs of a class's own docstring."""
    return inspect.cleandoc(cls.__doc__ or "").split("\n\n")


def settings(cls: type) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say of each setting."""
    found = {}
    for base in reversed(cls.__mro__[:-1]):
        for text in paragraphs(base):
            for entry in re.split(r"\n    (?=\w)", text)[1:]:
                if text.startswith(SETTINGS):
                    name, _, what = entry.partition(": ")
                    found[name] = re.sub(r"\bNone\b", "`null`", " ".join(what.split()))
    return found


def fields(cls: type) -> dict[str, str]:
    """Return what a docstring says under each word of `FIELDS`."""
    pairs = (text.partition(": ") for text in paragraphs(cls))
    return {word: what for word, _, what in pairs if word in FIELDS}


def card(name: str, cls: type) -> str:
    """Return the card of a part: use, settings, what it does, how it fails, source."""
    said, what = fields(cls), settings(cls)
    marked = (*SETTINGS, *(f"{word}:" for word in FIELDS))
    first, *body = (text for text in paragraphs(cls) if not text.startswith(marked))
    rows = ["| setting | default | what |", "|---|---|---|"]
    for one in inspect.signature(cls).parameters.values():
        given = one.default is not inspect.Parameter.empty
        value = f"`{json.dumps(one.default)}`" if given else "must be given"
        rows.append(f"| `{one.name}` | {value} | {what[one.name]} |")
    lines = [f"### {name}", first, f"**Use it** {said['Use']}"]
    lines += ["\n".join(rows), *body] if len(rows) > 2 else body
    lines.append(f"**How it fails:** {said['Known failure']}")
    lines.append(f"**Source:** {said['Source']}")
    return "\n\n".join(lines) + "\n"


def page() -> str:
    """Return the text of the page."""
    parts = [HEAD]
    for room in (criteria, regularizers, shaping, filters, teacher, cache):
        parts.append(f"## {room.REGISTRY.key}\n")
        parts += [card(*part) for part in room.REGISTRY.classes().items()]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
