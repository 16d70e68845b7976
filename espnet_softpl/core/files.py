"""Files that are whole or not there, and safe to load."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from espnet_softpl.core.errors import UserError

# torch is imported where it is needed: that takes a second or two, and the recipe's
# small scripts write tables only.


@contextmanager
def atomic_file(path: str | Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary name, `.NAME.tmp` beside it, and rename what was written.

    The file is the old one or the new one, whole, also after a kill. If writing fails
    (a full disk), the part that was written is removed.

    Args:
        path: The file; its directory is made.
        durable: Wait (milliseconds) until the disk has it, so that it survives a power
            cut too; not needed for files that a later run would make again.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes of a distributed run may write the same file at once. A name that is
    # the same in the next run lets that one overwrite what a kill left behind.
    rank = _rank()
    temporary = path.with_name(f".{path.name}{f'.{rank}' if rank else ''}.tmp")
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[TextIO]:
    """Open a text file in UTF-8 that is written as `atomic_file` writes."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file


def save_atomically(state: Any, path: Path) -> None:
    """Save with torch as `atomic_file` writes."""
    import torch

    with atomic_file(path) as temporary:
        torch.save(state, temporary)


def _rank() -> int:
    """Return this process's rank; one that has not imported torch is alone."""
    if "torch" not in sys.modules:
        return 0
    from espnet_softpl.core.processes import rank_and_world

    return rank_and_world()[0]


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_state(path: Path, mmap: bool = False) -> Any:
    """Load tensors, to the CPU, and plain values, nothing that could run code.

    With `mmap`, tensors stay in the file until they are used. UserError if the file is
    torn, or holds something else.
    """
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except (EOFError, RuntimeError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        what = f"{path} cannot be read, it is torn or no state: {reason}"
        raise UserError(what) from error
