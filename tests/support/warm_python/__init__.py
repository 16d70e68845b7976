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

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

PLACE = "SOFTPL_WARM_PYTHON"  # Names the directory of the server to all processes.
SAME = ("PYTHONHOME", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "MPLBACKEND")


def prepare(root: Path) -> None:
    """Write the program; called once, by the first process of pytest."""
    place = Path(tempfile.mkdtemp(prefix="warm_python."))
    settings = {"python": sys.executable, "root": str(root), "pytest": os.getpid()}
    settings["path"] = [*filter(None, os.environ.get("PYTHONPATH", "").split(":"))]
    settings["same"] = {name: os.environ.get(name) for name in SAME}
    (place / "settings.json").write_text(json.dumps(settings))
    source = (Path(__file__).parent / "client.py").read_text()
    program = place / "python"
    program.write_text(f"#!{sys.executable} -IS\n{source}")
    program.chmod(0o755)
    (place / "python3").symlink_to("python")
    os.environ[PLACE] = str(place)


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
