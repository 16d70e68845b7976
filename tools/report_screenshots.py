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
# Name: width and height of the window, whether it is dark, the section that is shown.
SHOTS = {
    "report_desktop": (1280, 1600, False, "errors"),
    "report_dark": (1280, 1500, True, "collapse"),
    "report_phone": (390, 1300, False, "collapse"),
    "report_labels": (1280, 1450, False, "samples"),
}
# The others are left out, and what is drawn when it is seen is drawn now.
SHOW = """for (const section of document.querySelectorAll("section"))
  section.hidden = section.id !== "{}";
places.filter((place) => place.offsetParent).forEach(draw);
new Promise((done) => setTimeout(done, 500));"""


def main() -> None:
    """Write the runs, the page and the pictures."""
    if CHROMIUM is None:
        raise SystemExit("error: no chromium is installed")
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        report.main([*write_grid(root), "--audio", "--out", str(root / "out")])
        for name, (width, height, dark, section) in SHOTS.items():
            with open_page(root / "out" / "report.html", width, height, dark) as page:
                page.run(SHOW.format(section))
                (IMAGES / f"{name}.png").write_bytes(page.picture())


if __name__ == "__main__":
    main()
