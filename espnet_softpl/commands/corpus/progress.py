"""Progress on the standard error: one updating line, or a few lines in a log."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_LOG_STEPS = 4


class Progress:
    """Reports how much of a known amount of work is done.

    On a terminal one line is rewritten; elsewhere a line appears at each quarter.

    Args:
        label: What is being done.
        total: The amount of work, > 0.
        unit: What the amount counts.
        quiet: Whether to report nothing.
        stream: Where to report, by default the standard error.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        quiet: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._start = time.monotonic()
        self._done = 0
        self._width = 0

    def advance(self, amount: int = 1) -> None:
        """Reports that ``amount`` more of the work is done."""
        before = self._done
        self._done += amount
        if self._quiet:
            return
        if self._stream.isatty():
            line = self._line()
            end = "\n" if self._done == self._total else ""
            self._stream.write("\r" + line.ljust(self._width) + end)
            self._width = len(line)
        elif self._quarter(self._done) > self._quarter(before):
            self._stream.write(self._line() + "\n")
        self._stream.flush()

    def _quarter(self, done: int) -> int:
        return done * _LOG_STEPS // self._total

    def _line(self) -> str:
        elapsed = time.monotonic() - self._start
        left = elapsed / self._done * (self._total - self._done)
        time_text = f"{_clock(left)} left" if left else f"in {_clock(elapsed)}"
        return (
            f"{self._label}: {self._done}/{self._total} {self._unit} "
            f"({100 * self._done // self._total} %), {time_text}"
        )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes}:{seconds:02d}"
