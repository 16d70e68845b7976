"""Files that are whole or not there, and safe to load."""

from __future__ import annotations

import contextlib
import datetime
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_softpl.checks import UserError

STATE_DIR = "pl_state"  # In the experiment directory, beside ESPnet's checkpoint.
STATE_VERSION = 3  # Of what is in it; states of another version are refused.
TEACHER = "teacher.pth"  # In the experiment directory, once a run is finished.
ADVICE = (
    "Start again in a new --output_dir (--init_param takes the models that are there), "
    "or put the options and the number of processes back as they were."
)

# What ESPnet's reporter holds beside plain values: how long an epoch took, and means.
SAFE_GLOBALS = [
    datetime.timedelta,
    np._core.multiarray.scalar,
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64")),
]


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to, and rename what was written.

    After a kill or a power cut the file is the old one or the new one, whole. Where
    writing fails (a full disk), the part that was written is removed.

    Args:
        path: The file; its directory is made.

    Yields:
        The temporary name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def save_atomically(state: Any, path: Path) -> None:
    """Save with torch under a temporary name, then rename; see `atomic_file`.

    Args:
        state: What to save.
        path: Where; its directory is made.
    """
    with atomic_file(path) as temporary:
        torch.save(state, temporary)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk.

    Args:
        path: The file or directory.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_state(path: Path, mmap: bool = False) -> Any:
    """Load tensors and plain values, nothing that could run code.

    Args:
        path: What `save_atomically` wrote.
        mmap: Leave the tensors in the file until they are used; for a quick look.

    Returns:
        The state, on the CPU: what takes it moves it to its own device.

    Raises:
        UserError: The file is torn, or holds something else.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise UserError(
            f"{path} cannot be read, it is torn or no state: "
            f"{str(error).partition(chr(10))[0]}"
        ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load ESPnet's `checkpoint.pth` without running code from it.

    ESPnet itself loads it with `weights_only=False`; tensors, plain values and what
    the reporter holds beside them are all that its optimizers and schedulers save.

    Args:
        path: The file.

    Returns:
        `model`, `reporter`, `optimizers`, `schedulers` and `scaler`. The tensors, on
        the CPU, stay in the file until they are used.
    """
    with torch.serialization.safe_globals(SAFE_GLOBALS):
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)


def check_state(state: Any, path: Path, **wanted: Any) -> None:
    """Refuse a state that belongs elsewhere.

    Args:
        state: What `load_state` returned.
        path: The file.
        **wanted: What it must say of itself, such as its epoch.

    Raises:
        UserError: It says something else, or is of another version.
    """
    wanted["version"] = STATE_VERSION
    known = state if isinstance(state, dict) else {}
    for key, value in wanted.items():
        if known.get(key) != value:
            raise UserError(
                f"cannot resume: {path} has {key} {known.get(key)!r}, this run needs "
                f"{value!r}. {ADVICE}"
            )
