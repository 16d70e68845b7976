"""A Python interpreter that has imported ESPnet already, for tests that start many.

The recipe starts some twenty Python processes, and each would spend seconds on ESPnet's
imports and on its first calls, more than on its work. `executable()` names a program
that is used like `python`. It asks a server to fork itself, and the fork runs the
module or script with the caller's arguments, environment, directory and streams:

    python -m espnet2.bin.asr_train --config x.yaml     1 s instead of 7 s

A fork is in its caller's process group (except if that is of another session), gets its
signals, dies with it, and ends with the same status. What could be told apart is left
to the plain interpreter: `-c`, options except `-u`, other places in PYTHONPATH, another
number of threads (`SAME`). The server starts at the first call and ends with pytest.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

PLACE = "SOFTPL_WARM_PYTHON"  # Names the directory of the server to all processes.
SAME = ("PYTHONHOME", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MPLBACKEND")


def write_program(root: Path, *more: Path) -> Path:
    """Write the program for a checkout; return its directory.

    Args:
        root: Where the server runs.
        more: What PYTHONPATH holds beside the places that are there now.
    """
    place = Path(tempfile.mkdtemp(prefix="warm_python."))
    settings = {"python": sys.executable, "root": str(root), "pytest": os.getpid()}
    places = [*map(str, more), *os.environ.get("PYTHONPATH", "").split(":")]
    settings["path"] = [*filter(None, places)]
    settings["same"] = {name: os.environ.get(name) for name in SAME}
    (place / "settings.json").write_text(json.dumps(settings))
    source = (Path(__file__).parent / "client.py").read_text()
    program = place / "python"
    program.write_text(f"#!{sys.executable} -IS\n{source}")
    program.chmod(0o755)
    (place / "python3").symlink_to("python")
    return place


def prepare(root: Path) -> None:
    """Write the program; called once, by the first process of pytest."""
    os.environ[PLACE] = str(write_program(root))


@contextlib.contextmanager
def of_checkout(root: Path) -> Iterator[str]:
    """Name a program that imports from another checkout, which PYTHONPATH begins with.

    Its server is a further one, and ends with the context.
    """
    if not hasattr(os, "pidfd_open"):  # Not Linux.
        yield sys.executable
        return
    place = write_program(root, root)
    try:
        yield str(place / "python")
    finally:
        if (place / "server.pid").exists():
            os.kill(int((place / "server.pid").read_text()), signal.SIGTERM)
        shutil.rmtree(place)


def same() -> dict[str, str]:
    """Return the variables that a process must have as the tests have them."""
    return {name: os.environ[name] for name in SAME if name in os.environ}


def remove() -> None:
    """Remove what `prepare` wrote; the server ends by itself."""
    shutil.rmtree(os.environ.pop(PLACE), ignore_errors=True)


def executable() -> str:
    """Return a program to be used in the place of `sys.executable`."""
    if not hasattr(os, "pidfd_open"):  # Not Linux.
        return sys.executable
    return str(Path(os.environ[PLACE]) / "python")
