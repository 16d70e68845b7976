"""A headless Chromium that opens a page: what a script finds in it, and pictures."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
HEADLESS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
HEADLESS += ("--virtual-time-budget=20000",)
BEGINNING = """<script>
const found = { errors: [] };
const note = (...words) => found.errors.push(words.map(String).join(" "));
addEventListener("error", (event) => note(event.message));
addEventListener("unhandledrejection", (event) => note(event.reason));
console.error = alert = note;
</script>"""
END = """<script>
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
(async () => {
%s
})().catch(note).finally(() => (root.dataset.found = JSON.stringify(found)));
</script>"""


def open_page(page: Path, *options: str) -> str:
    """Open a page and return what Chromium prints."""
    command = [str(CHROMIUM), *HEADLESS, *options, page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


def drive(page: Path, script: str) -> dict[str, Any]:
    """Run a script in a page once it is loaded.

    Returns:
        What it has put into `found`, and `errors`: all that went to the console.
    """
    text = page.read_text(encoding="utf-8")
    copy = page.with_name("driven.html")
    text = text.replace("</title>", f"</title>{BEGINNING}", 1)
    copy.write_text(text.replace("</body>", f"{END % script}</body>"))
    match = re.search(r'data-found="(.*?)"', open_page(copy, "--dump-dom"))
    assert match, "the script did not end"
    return json.loads(html.unescape(match[1]))
