"""One updating line on a terminal; nothing in a log file."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def clock(seconds: float) -> str:
    """Return a duration as ``H:MM:SS``.

    Args:
        seconds: Duration, at least 0.
    """
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def progress_text(label: str, done: int, total: int, seconds: float) -> str:
    """Return the state of a task as text.

    Args:
        label: What is being done.
        done: Items finished, 0 to total.
        total: Number of items.
        seconds: Time since the start.
    """
    text = f"{label}: {done}/{total}"
    if 0 < done < total:
        text += f", time to finish {clock(seconds * (total - done) / done)}"
    return text


def follow(items: Iterable[Item], total: int, label: str) -> Iterator[Item]:
    """Yield the items and show on a terminal how many have passed.

    Args:
        items: What to iterate over.
        total: Number of items.
        label: What is being done.
    """
    shown = sys.stderr.isatty()
    start = last = time.monotonic()
    width = shutil.get_terminal_size().columns - 1
    for done, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if shown and (now - last > 0.2 or done == total):
            last = now
            text = progress_text(label, done, total, now - start)
            sys.stderr.write(f"\r{text[:width]:<{width}}")
            sys.stderr.flush()
    if shown:
        sys.stderr.write("\r" + " " * width + "\r")
