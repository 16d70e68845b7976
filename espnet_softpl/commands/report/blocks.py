"""What a page is made of: sections with paragraphs, tables, figures and samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass
class Cell:
    """A cell of a table.

    Attributes:
        text: What is in it.
        note: Smaller text below, "" for none.
        state: `bad` where there is reason to worry, `good`, or "".
        color: Color of a mark before the text, "" for none.
    """

    text: str
    note: str = ""
    state: str = ""
    color: str = ""


@dataclasses.dataclass
class Table:
    """A table; the first cell of each row is its header.

    Attributes:
        caption: What it shows.
        head: Titles of the columns.
        rows: Rows of cells or of text.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    kind: str = "table"


@dataclasses.dataclass
class Picture:
    """A figure.

    Attributes:
        file: Name of the PNG file beside the page.
        alt: What it shows, for those who cannot see it.
        caption: How to read it, and when to worry.
    """

    file: str
    alt: str
    caption: str
    kind: str = "picture"


@dataclasses.dataclass
class Paragraph:
    """A paragraph; `state` is `bad` for a warning."""

    text: str
    state: str = ""
    kind: str = "paragraph"


@dataclasses.dataclass
class Details:
    """Preformatted text that a click opens."""

    title: str
    text: str
    kind: str = "details"


@dataclasses.dataclass
class Sample:
    """The labels of one utterance over time.

    Attributes:
        utterance: Its id.
        truth: The true transcript, None where it is not known.
        runs: Name, color and rows of each experiment. A row has `epoch`, `step`,
            `label` and `student` (words), `error` (WER in percent, or ""), `weight`
            and `dropped_by`.
    """

    utterance: str
    truth: str | None
    runs: Sequence[dict[str, Any]]
    kind: str = "sample"


@dataclasses.dataclass
class Section:
    """A section of the page.

    Attributes:
        key: Its anchor.
        title: Its heading.
        blocks: What it is made of.
    """

    key: str
    title: str
    blocks: list[Any] = dataclasses.field(default_factory=list)
