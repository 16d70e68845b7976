"""Files that are whole or not there, and safe to load."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch

from espnet_softpl.core.errors import UserError


@contextmanager
def atomic_write(path: str | Path) -> Iterator[TextIO]:
    """Open a text file that appears under its name only when complete.

    Args:
        path: File to write; missing parent directories are made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            yield stream
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
