"""A headless Chromium with one page, led by the DevTools protocol through a pipe."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
OPTIONS = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe"
PATIENCE = 300  # Seconds until a browser that hangs is ended.
LOADED = (
    "new Promise((go) => document.readyState === 'complete' ? go() : (onload = go))"
)


class Page:
    """A page that is open; `errors` are what its scripts and console complained of."""

    def __init__(self, to: int, back: int) -> None:
        self.errors: list[str] = []
        self._to, self._back = os.fdopen(to, "wb"), os.fdopen(back, "rb")
        self._rest, self._count, self._session = b"", 0, {}

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        self._to.write(json.dumps(message | self._session).encode() + b"\0")
        self._to.flush()
        while True:
            while b"\0" not in self._rest:
                part = self._back.read1()
                assert part, "Chromium has ended"
                self._rest += part
            line, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer.get("method"), answer.get("params", {}))

    def _note(self, event: str, params: dict[str, Any]) -> None:
        entry = params.get("entry", params)
        if event == "Runtime.exceptionThrown" or "error" in (
            *(entry.get("level"), entry.get("type")),
        ):
            self.errors.append(json.dumps(params))

    def open(self, path: Path, width: int, height: int, dark: bool) -> None:
        """Open a file in a window of a size in pixels, and wait until it is drawn."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.call("Emulation.setDeviceMetricsOverride", **size, mobile=width < 500)
        wish = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[wish])
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.run(f"Promise.resolve({LOADED}).then(() => ready)")

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript, wait for a promise, and return its value."""
        how = {"awaitPromise": True, "returnByValue": True}
        found = self.call("Runtime.evaluate", expression=expression, **how)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self) -> bytes:
        """Return what is seen as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])


@contextlib.contextmanager
def open_page(
    path: Path, width: int = 1280, height: int = 900, dark: bool = False
) -> Iterator[Page]:
    """Open a page for as long as the context lasts."""
    (read, to), (back, write) = os.pipe(), os.pipe()
    # A profile of its own: one that another Chromium uses makes this one wait for ever.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        start = f"exec {CHROMIUM} {OPTIONS} --user-data-dir={profile} "
        process = subprocess.Popen(
            ["bash", "-c", f"{start} 3<&{read} 4>&{write}"],
            pass_fds=(read, write),
            stderr=subprocess.DEVNULL,
        )
        os.close(read), os.close(write)
        watch = threading.Timer(PATIENCE, process.kill)
        watch.start()
        try:
            page = Page(to, back)
            page.open(path, width, height, dark)
            yield page
            page.call("Browser.close")
        finally:
            watch.cancel()
            process.kill()
            process.wait()
