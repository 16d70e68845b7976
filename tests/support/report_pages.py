"""Write pages as a user does, and read them strictly."""

from __future__ import annotations

import base64
import gzip
import html.parser
import json
import shutil
from pathlib import Path

from espnet_softpl.bin import report

# Elements that have no end tag.
VOID = {"meta", "br", "hr", "link", "input"}
# Elements that hold no text for readers.
SILENT = {"style", "script", "noscript"}


class Page(html.parser.HTMLParser):
    """Parses a page strictly: every element is closed by its own end tag."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.scripts: dict[str | None, str] = {}
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open:
            key = self.tags[-1][1].get("id")
            self.scripts[key] = self.scripts.get(key, "") + data
        if SILENT & set(self.open):
            return
        data = data.replace("\N{NO-BREAK SPACE}", " ")
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.strip("\n")

    @property
    def words(self) -> str:
        """All text, with single spaces."""
        return " ".join("".join(self.text).split())

    def row(self, first: str, *more: str) -> list[str]:
        """Find the row that begins so."""
        wanted = [first, *more]
        return next(row for row in self.rows if row[: len(wanted)] == wanted)

    def charts(self, figure: str) -> dict[str, list[dict]]:
        """Return the traces of a figure's charts, by title."""
        charts = json.loads(self.scripts["charts"])[figure]
        return {chart["title"]: chart["data"] for chart in charts}

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def check_page(path: Path) -> Page:
    """Assert what holds of every page, and return it parsed."""
    page = Page(path)
    names = [name for name, _ in page.tags]
    assert names.count("h1") == names.count("main") == names.count("title") == 1
    assert not {"img", "link", "iframe", "object", "form"} & set(names)
    assert not any("src" in script for script in page.all("script"))
    text = path.read_text(encoding="utf-8")
    packed = page.scripts["plotly"]
    assert b"plotly.js v" in gzip.decompress(base64.b64decode(packed, validate=True))
    # Any letters may stand by chance in what is packed, and are no link.
    text = text.replace(packed, "")
    for audio in page.all("audio"):
        head, data = audio["src"].split(",")
        assert head == "data:audio/flac;base64"
        assert base64.b64decode(data, validate=True)[:4] == b"fLaC"
        text = text.replace(data, "")
    charts = json.loads(page.scripts["charts"])
    places = [a for _, a in page.tags if a.get("class") == "chart"]
    for place in places:
        assert charts[place["data-figure"]][int(place["data-index"])]["data"]
        assert any(a.get("id") == place["aria-labelledby"] for _, a in page.tags)
    anchors = {attributes.get("id") for _, attributes in page.tags}
    links = [link["href"] for link in page.all("a")]
    assert links and all(link[0] == "#" and link[1:] in anchors for link in links)
    assert "http" not in text and "url(" not in text and "@import" not in text
    for header in page.all("th"):
        assert header["scope"] in ("col", "row", "rowgroup")
    assert names.count("caption") == names.count("table") > 0
    return page


def run_report(*experiments: Path, out: Path, more: tuple[str, ...] = ()) -> Page:
    """Run the command as a user does, and check the page."""
    assert report.main([*map(str, experiments), "--out", str(out), *more]) == 0
    return check_page(out / "report.html")


def copy(exp: Path, to: Path) -> Path:
    return Path(shutil.copytree(exp, to, symlinks=True))
