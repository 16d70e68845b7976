"""The pages of the documentation, and the blocks in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tests import ROOT

DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", *DOCS, *sorted(ROOT.glob("egs2/librispeech_softpl/*.md"))]


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        page: Where it stands.
        line: The line of its opening fence, counted from 1.
        language: The word after the fence, empty for output.
        text: What is in it.
        mark: The HTML comment in the line before it, without its delimiters; else that
            of the page, `<!-- tests: FILE -->`; else empty.
    """

    page: Path
    line: int
    language: str
    text: str
    mark: str

    @property
    def name(self) -> str:
        """The page and the line, as `docs/monitors.md:12`."""
        return f"{name_of(self.page)}:{self.line}"


def name_of(page: Path) -> str:
    """Return a page's name from the project's root on."""
    return page.relative_to(ROOT).as_posix()


def read(page: Path) -> str:
    """Return a page's text."""
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in order."""
    found: list[Block] = []
    whole = re.search(r"^<!-- (tests: .*?) -->$", read(page), re.M)
    opening = None
    before = ""
    inside: list[str] = []
    for number, line in enumerate(read(page).splitlines(), 1):
        fence = re.match(r"\s*```(.*)$", line)
        if fence and opening is None:
            mark = re.fullmatch(r"\s*<!-- (.*) -->", before)
            mark = mark or whole
            opening = (number, fence[1].strip(), mark[1] if mark else "")
        elif fence:
            line_number, language, mark = opening
            text = "".join(f"{row}\n" for row in inside)
            found.append(Block(page, line_number, language, text, mark))
            opening, inside = None, []
        elif opening:
            inside.append(line)
        before = line if line.strip() else before
    assert opening is None, f"{name_of(page)}: a block is not closed"
    return found


ALL = [block for page in PAGES for block in blocks(page)]
