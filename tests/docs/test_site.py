"""mkdocs.yml: the site is built without a warning, and loads nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.support.doc_pages import DOCS

pytest.importorskip("material", reason="the site needs mkdocs-material (extra docs)")


def build(config: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Build a site as the head of mkdocs.yml says, into another directory."""
    words = ["build", "--strict", "--config-file", config, "--site-dir", target]
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", *words],
        cwd=config.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("docs") / "site"
    done = build(ROOT / "mkdocs.yml", target)
    assert done.returncode == 0, done.stderr
    return target


def test_every_page_is_there(site: Path) -> None:
    for page in DOCS:
        name = page.relative_to(ROOT / "docs").with_suffix(".html")
        target = name.with_name("index.html") if name.stem == "README" else name
        assert (site / target).is_file(), name
    assert (site / "search/search_index.json").is_file()


def test_links_between_docs_and_the_recipe_lead_there(site: Path) -> None:
    for page, pattern in (
        ("algorithms.html", r'href="(egs2/[^"#]+)'),
        ("dev/settings.html", r'href="(\.\./egs2/[^"#]+)'),
        ("egs2/librispeech_softpl/index.html", r'href="(\.\./\.\./report\.html)"'),
    ):
        text = (site / page).read_text(encoding="utf-8")
        targets = set(re.findall(pattern, text))
        assert targets
        assert all((site / page).parent.joinpath(target).exists() for target in targets)


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    loads = (
        r"<(?:script|img|link|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//"
    )
    for page in site.rglob("*.html"):
        assert not re.search(loads, page.read_text(encoding="utf-8")), page
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", text), sheet


def test_a_broken_link_fails(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/index.md").write_text("[x](gone.md)\n")
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    text = text.partition("\nnav:")[0].replace("hooks: [tools/site_links.py]", "")
    (tmp_path / "mkdocs.yml").write_text(text)
    done = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert done.returncode == 1 and "gone.md" in done.stderr
