"""docs/parts.md is what its script writes, and docs/criteria.md lists all of it."""

from __future__ import annotations

import re
import runpy

import pytest

from espnet_softpl import cache, criteria, filters, regularizers, shaping, teacher
from tests.support.doc_pages import ROOT, read

SCRIPT = runpy.run_path(str(ROOT / "tools" / "make_parts_page.py"))
ROOMS = (criteria, regularizers, shaping, filters, teacher, cache)
CLASSES = {name: cls for room in ROOMS for name, cls in room.REGISTRY.classes().items()}


def test_the_page_is_what_the_script_writes() -> None:
    again = "python tools/make_parts_page.py"
    assert read(ROOT / "docs" / "parts.md") == SCRIPT["page"](), f"run {again}"


@pytest.mark.parametrize("name", CLASSES)
def test_the_tables_to_pick_from_say_what_the_docstrings_say(name: str) -> None:
    rows = re.findall(
        rf"^\| \[`{name}`\]\(parts\.md#{name}\)[^|]* \| (.*?) \|",
        read(ROOT / "docs" / "criteria.md"),
        re.M,
    )
    assert rows == [SCRIPT["fields"](CLASSES[name])["Use"].rstrip(".")]


class Base:
    """A base.

    Args:
        size: How large, or
            None.
    """


class Part(Base):
    """A part.

    What it does.

    Use: never.

    Known failure: always.

    Source: here.

    Settings: `Base`.
    """

    def __init__(self, size: int | None = None) -> None: ...


def test_a_card() -> None:
    assert SCRIPT["card"]("part", Part).split("\n\n") == [
        "### part",
        "A part.",
        "**Use it** never.",
        "| setting | default | what |\n|---|---|---|\n"
        "| `size` | `null` | How large, or `null`. |",
        "What it does.",
        "**How it fails:** always.",
        "**Source:** here.\n",
    ]


def test_a_setting_without_a_word_is_found() -> None:
    class Silent(Part):
        __doc__ = Part.__doc__

        def __init__(self, size: int, other: int) -> None: ...

    with pytest.raises(KeyError, match="other"):
        SCRIPT["card"]("silent", Silent)
