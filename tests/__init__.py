"""The tests, in folders that mirror the package."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def python_path(*more: Path) -> str:
    """Return PYTHONPATH for a process that a test starts: this checkout first."""
    places = [*map(str, more), str(ROOT), os.getenv("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, places))
