"""Records of tensors by slot, each in a file of its own.

The system keeps what was written lately in memory (its page cache) while there is room.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import load_state, sync
from espnet_softpl.core.ranges import at_least

_FILE_NAME = re.compile(r"slot\d+-(\d+)\.pt")
_PLAIN = (str, int, float, bool, type(None))


class LabelStore:
    """Holds one record per slot.

    A record is made of tensors, str, int, float, bool and None in dict, list and tuple,
    nested at will: what `torch.load(weights_only=True)` reads. Every `get` returns
    tensors of its own, on the CPU.

    Files are never overwritten, nor are their names given twice, so that every saved
    state finds its own: `slot3-17.pt` is the 17th file in the directory. `forget`
    deletes those that no state needs. One store, and so one process, per directory,
    which is made when the first file is written.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[int, str] = {}
        self._unsynced: set[str] = set()
        # A run that was killed may have left files of higher numbers than any state.
        self._number = self._highest_number()

    def put(self, slot: int, record: Any) -> None:
        """Keep a record, in the place of the one in that slot.

        Raises:
            TypeError: The record holds something else than tensors and plain values.
            ValueError: The slot is out of its range.
        """
        at_least("slot", slot, 0)
        record = _compact(record)
        self._number += 1
        file = f"slot{slot}-{self._number}.pt"
        path = self._directory / file
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            torch.save(record, path)  # No state names a file that a kill leaves torn.
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        self._unsynced.add(file)
        self._files[slot] = file

    def get(self, slot: int) -> Any:
        """Read a record.

        Raises:
            KeyError: The slot is empty.
            UserError: Its file is missing or cannot be read.
        """
        return self._read(self._files[slot])

    def __contains__(self, slot: int) -> bool:
        return slot in self._files

    def __len__(self) -> int:
        return len(self._files)

    def clear(self) -> None:
        """Empty all slots; files stay until `forget`, for saved states name them."""
        self._files.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, once the files that it names are on disk."""
        # One by one in `put`, waiting for the disk would cost more than a mini-batch.
        for file in self._unsynced.intersection(self._files.values()):
            sync(self._directory / file)
        if self._unsynced:
            sync(self._directory)
        self._unsynced.clear()
        return {"number": self._number, "files": dict(self._files)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold what a state says, and nothing else; delete no file.

        Raises:
            UserError: A file is missing or damaged. The store is as before.
        """
        for file in state["files"].values():
            self._read(file)
        self._files = dict(state["files"])
        # Files written after the state may be named by a later one.
        self._number = max(self._number, state["number"], self._highest_number())

    def forget(self, keep: Iterable[dict[str, Any]]) -> None:
        """Delete files that neither the store nor a state to keep needs."""
        needed = {*self._files.values()}
        needed.update(file for state in keep for file in state["files"].values())
        for path in self._directory.glob("slot*.pt"):
            if _FILE_NAME.fullmatch(path.name) and path.name not in needed:
                path.unlink()

    def _highest_number(self) -> int:
        """Return the highest number among the files of the directory, or 0."""
        names = (_FILE_NAME.fullmatch(p.name) for p in self._directory.glob("slot*.pt"))
        return max((int(name[1]) for name in names if name), default=0)

    def _read(self, file: str) -> Any:
        path = self._directory / file
        hint = "Bring it back, or start the run again."
        if not path.is_file():
            raise UserError(f"{path}: a file of saved labels is missing. {hint}")
        try:
            return load_state(path)
        except UserError as error:
            raise UserError(f"saved labels: {error}. {hint}") from error


def _compact(value: Any) -> Any:
    """Copy a record to the CPU; of a view what is seen, without the rest behind it."""
    kind = type(value)
    if kind in (torch.Tensor, torch.nn.Parameter):
        return value.detach().to("cpu", copy=True)
    if kind is dict and all(type(key) in (str, int) for key in value):
        return {key: _compact(entry) for key, entry in value.items()}
    if kind in (list, tuple):
        return kind(_compact(entry) for entry in value)
    if kind in _PLAIN:
        return value
    raise TypeError(f"a record holds tensors and plain values, not {kind.__name__}")
