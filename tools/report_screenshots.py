#!/usr/bin/env python3
"""Make the pictures of the report in docs/images, of made-up runs, by Chromium.

    PYTHONPATH=. python tools/report_screenshots.py

Three systems have three seeds each; one run collapses.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from espnet_softpl.bin import report
from tests.support.browser import CHROMIUM, open_page
from tests.support.report_experiments import write_grid

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
DARK = "--blink-settings=preferredColorScheme=0"
# Name: width and height of the window, the section that is shown, and more options.
SHOTS: dict[str, tuple[int, int, str, tuple[str, ...]]] = {
    "report_desktop": (1280, 1600, "errors", ()),
    "report_dark": (1280, 1500, "collapse", (DARK,)),
    "report_phone": (390, 1300, "collapse", ()),
    "report_labels": (1280, 1750, "samples", ()),
}


def main() -> None:
    """Write the runs, the page and the pictures."""
    if CHROMIUM is None:
        raise SystemExit("error: no chromium is installed")
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        report.main([*write_grid(root), "--audio", "--out", str(root / "out")])
        text = (root / "out" / "report.html").read_text(encoding="utf-8")
        for name, (width, height, section, options) in SHOTS.items():
            # What is above the section is left out, and the bar is kept.
            style = f"<style>section:not(#{section}) {{ display: none }}</style>"
            page = root / "out" / f"{name}.html"
            page.write_text(text.replace("</head>", f"{style}</head>"))
            size = f"--window-size={width},{height}"
            open_page(page, f"--screenshot={IMAGES / name}.png", size, *options)


if __name__ == "__main__":
    main()
