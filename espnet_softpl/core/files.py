"""Files that are whole or not there, and safe to load."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from espnet_softpl.core.errors import UserError, status_of

# torch is imported where it is needed: that takes a second or two, and the recipe's
# small scripts write tables only.


@contextmanager
def atomic_file(path: str | Path, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary name, `.NAME.tmp` beside it, and rename what was written.

    The file is the old one or the new one, whole, also after a kill. If writing fails
    (a full disk), the part that was written is removed. `durable` waits (milliseconds)
    until the disk has it: not needed for files that a later run would make again.
    """
    path, rank = Path(path), ""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Processes of a distributed run may write the same file at once; without torch,
    # this one is alone. A name that is the same in the next run lets that one
    # overwrite what a kill left behind.
    if "torch" in sys.modules:
        from espnet_softpl.core.processes import rank_and_world

        rank = f".{number}" if (number := rank_and_world()[0]) else ""
    temporary = path.with_name(f".{path.name}{rank}.tmp")
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        _name(error, path)
        raise
    if durable:
        sync(path.parent)


@contextmanager
def work_directory(path: Path) -> Iterator[Path]:
    """Make a directory, empty, and remove it at the end; a kill's rest goes first."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    try:
        yield path
    except OSError as error:
        _name(error, path)
        raise
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _name(error: BaseException, path: Path) -> None:
    """Say which file an error is of: a full disk does not tell."""
    if isinstance(error, OSError) and error.errno and error.filename is None:
        error.filename = str(path)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[TextIO]:
    """Open a text file in UTF-8 that is written as `atomic_file` writes."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        yield file


def save_atomically(state: Any, path: Path) -> None:
    """Save with torch as `atomic_file` writes; OSError if the disk takes no more."""
    import torch

    said = "not all could be written, the disk may be full"
    with atomic_file(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:
            if status_of(error) != 4:
                raise
            reason = str(error).partition("\n")[0]
            raise OSError(errno.EIO, f"{said} ({reason})", str(path)) from error
        # torch 2.5 says nothing if the last 8 kB, in which the directory of the
        # archive is, find no place.
        if not zipfile.is_zipfile(temporary):
            raise OSError(errno.EIO, said, str(path))


def sync(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_sums(path: Path) -> None:
    """Refuse a file of `torch.save` in which a bit is not as it was written.

    torch writes a CRC-32 of every record, and looks at none when it loads. What is no
    zip archive is left to it. 0.4 s per GB (in the page cache, one core).
    """
    if not zipfile.is_zipfile(path):
        return
    with reading(path), zipfile.ZipFile(path) as records:
        if (damaged := records.testzip()) is not None:
            raise UserError(f"{path} is damaged: {damaged} is not what was written")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Make a UserError of whatever a file raises that torch cannot load."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # A wrong bit may ask for anything.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # The other one is of a place that a torn file names.
        # Of its first sentence: torch advises to load files that may run code.
        reason = str(error).partition("\n")[0].partition(". ")[0]
        what = f"{path} cannot be read, it is cut off or not a PyTorch file: {reason}"
        raise UserError(what) from error


def load_state(path: Path, mmap: bool = False) -> Any:
    """Load tensors, to the CPU, and plain values; UserError for anything else.

    With `mmap`, tensors stay in the file until they are used, and `check_sums`, which
    reads all of it, is the caller's.
    """
    import torch

    with reading(path):
        if not mmap:
            check_sums(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def load_weights(path: Path) -> dict[str, Any]:
    """Load the parameters of a trained model, or refuse what holds something else."""
    import torch

    advice = (
        "Give a model such as valid.acc.ave.pth; checkpoint.pth, ESPnet's state of a "
        "training, is none"
    )
    try:
        state = load_state(path)
    except UserError as error:
        raise UserError(f"{error}. {advice}") from error
    state = state.get("module", state) if isinstance(state, dict) else state
    if not (isinstance(state, dict) and all(map(torch.is_tensor, state.values()))):
        raise UserError(f"{path} is no model of ESPnet: more than tensors. {advice}")
    return dict(state)


# With aliases written out, ten lines of which can fill any memory. A configuration of
# ESPnet has a few values, and a token list of up to 100,000.
MOST_VALUES = 10**6


def read_yaml(path: Path) -> Any:
    """Read plain values from YAML; UserError if it is none or above `MOST_VALUES`."""
    import yaml

    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if _count(node, {}) > MOST_VALUES:
            raise UserError(
                f"{path}: aliases (*name) make more than {MOST_VALUES} values of it; "
                f"write them out"
            )
        return None if node is None else loader.construct_document(node)
    except UserError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise UserError(f"{path} is no YAML file: {error}") from error


def _count(node: Any, known: dict[int, float]) -> float:
    """Count the values in a YAML node, aliases written out; infinite in a circle."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        parts = node.value if isinstance(getattr(node, "value", None), list) else []
        flat = (n for part in parts for n in (part if type(part) is tuple else [part]))
        known[id(node)] = 1 + sum(_count(part, known) for part in flat)
    return known[id(node)]
