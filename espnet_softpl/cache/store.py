"""Records of tensors by slot: in memory up to a limit, in files beyond it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import save_atomically
from espnet_softpl.core.ranges import at_least, not_negative

BYTES_PER_MB = 10**6


_FILE_NAME = re.compile(r"slot\d+-(\d+)\.pt")


_PLAIN = (str, int, float, bool, type(None))


@dataclasses.dataclass(frozen=True)
class _Held:
    """Where a record is.

    Attributes:
        num_bytes: Of its tensors.
        file: Its file in the store's directory, or None for memory.
        record: The record, where it is in memory.
    """

    num_bytes: int
    file: str | None = None
    record: Any = None

    @property
    def in_memory(self) -> int:
        """Bytes of its tensors that are in memory."""
        return self.num_bytes if self.file is None else 0


class LabelStore:
    """Holds one record per slot.

    A record is made of tensors, str, int, float, bool and None in dict, list and tuple,
    nested at will: what `torch.load(weights_only=True)` reads. The store owns what it
    holds: `put` copies what it is given (on the CPU, without gradient), and every `get`
    returns a copy of its own, or tensors that are mapped from the file anew, privately,
    so that no edit in place reaches the store.

    A record stays in memory where all tensors in memory together are within the limit,
    and goes to a file of its own otherwise. Files are never overwritten, nor are their
    names given twice, so that every saved state finds its own; `forget` deletes those
    that no state needs. One store, and so one process, per directory.

    Args:
        directory: Where files go; made when the first one is written. May be None
            where there is no limit.
        memory_limit_mb: Megabytes (10^6 bytes) of tensors in memory, at least 0; 0
            puts every record with tensors into a file, None sets no limit.

    Raises:
        ValueError: The limit is out of its range, or lacks a directory.
    """

    def __init__(
        self, directory: Path | None = None, memory_limit_mb: float | None = None
    ) -> None:
        if memory_limit_mb is not None:
            not_negative("memory_limit_mb", memory_limit_mb)
            if directory is None:
                raise ValueError("memory_limit_mb needs a directory for the files")
            memory_limit_mb *= BYTES_PER_MB
        self.directory = directory
        self._limit = memory_limit_mb
        self._held: dict[int, _Held] = {}
        self._memory_bytes = 0
        # A run that was killed may have left files of higher numbers than any state.
        self._number = self._highest_number()

    def put(self, slot: int, record: Any) -> None:
        """Keep a record, in the place of the one in that slot.

        Args:
            slot: At least 0.
            record: See the class.

        Raises:
            TypeError: The record holds something else than tensors and plain values.
            ValueError: The slot is out of its range.
        """
        at_least("slot", slot, 0)
        record = _copy(record)
        num_bytes = _count_bytes(record)
        before = self._held.get(slot)
        others = self._memory_bytes - (before.in_memory if before else 0)
        # A record without tensors weighs nothing, even where the limit is 0.
        if self._limit is None or not num_bytes or others + num_bytes <= self._limit:
            self._held[slot] = _Held(num_bytes, record=record)
            self._memory_bytes = others + num_bytes
            return
        file = f"slot{slot}-{self._number + 1}.pt"
        save_atomically(record, self.directory / file)
        self._number += 1
        self._held[slot] = _Held(num_bytes, file)
        self._memory_bytes = others

    def get(self, slot: int) -> Any:
        """Return a copy of a record, the caller's to change.

        Args:
            slot: One that holds a record.

        Raises:
            KeyError: The slot is empty.
            UserError: Its file is missing or cannot be read.
        """
        held = self._held[slot]
        return _copy(held.record) if held.file is None else self._read(held)

    def __contains__(self, slot: int) -> bool:
        return slot in self._held

    def __len__(self) -> int:
        return len(self._held)

    def clear(self) -> None:
        """Empty all slots; files stay until `forget`, for saved states name them."""
        self._held.clear()
        self._memory_bytes = 0

    @property
    def memory_bytes(self) -> int:
        """Bytes of the tensors in memory."""
        return self._memory_bytes

    @property
    def disk_bytes(self) -> int:
        """Bytes of the tensors in files, of the slots' present records."""
        return sum(h.num_bytes - h.in_memory for h in self._held.values())

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: records in memory, names of files.

        The records are the store's own: save them, do not change them.
        """
        held = self._held.items()
        return {
            "number": self._number,
            "memory": {slot: h.record for slot, h in held if h.file is None},
            "files": {
                slot: (h.file, h.num_bytes) for slot, h in held if h.file is not None
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold what a state says, and nothing else; delete no file.

        Records stay where they were, memory or file, whatever the limit is now.

        Args:
            state: What `state_dict` returned.

        Raises:
            UserError: A file is missing or broke off. The store is as before. The
                numbers in a whole file are not checked.
        """
        held: dict[int, _Held] = {}
        for slot, record in state["memory"].items():
            record = _copy(record)
            held[slot] = _Held(_count_bytes(record), record=record)
        for slot, (file, num_bytes) in state["files"].items():
            held[slot] = _Held(num_bytes, file)
            self._read(held[slot])
        self._held = held
        self._memory_bytes = sum(h.in_memory for h in held.values())
        # Files written after the state may be named by a later one.
        self._number = max(self._number, state["number"], self._highest_number())

    def forget(self, keep: Iterable[dict[str, Any]]) -> None:
        """Delete files that neither a saved state nor the store itself needs.

        What a killed run left of an unfinished file goes as well. Only files named as
        this class and `save_atomically` name theirs are touched.

        Args:
            keep: All states that may still be loaded.
        """
        if self.directory is None or not self.directory.is_dir():
            return
        states = [self.state_dict(), *keep]
        named = {file for state in states for file, _ in state["files"].values()}
        for path in list(self.directory.iterdir()):
            torn = path.name.startswith(".") and path.name.endswith(".tmp")
            ours = _FILE_NAME.fullmatch(path.name) is not None
            if torn or (ours and path.name not in named):
                path.unlink(missing_ok=True)

    def _highest_number(self) -> int:
        """Return the highest number among the files of the directory, or 0."""
        if self.directory is None or not self.directory.is_dir():
            return 0
        found = (_FILE_NAME.fullmatch(path.name) for path in self.directory.iterdir())
        return max((int(match[1]) for match in found if match), default=0)

    def _read(self, held: _Held) -> Any:
        """Map a record's file; what is mapped outlives the file."""
        if self.directory is None:
            raise UserError(
                f"the labels in {held.file} were saved with a directory for files; "
                f"none is given now"
            )
        path = self.directory / held.file
        hint = "Bring it back, or start the run again."
        if not path.is_file():
            raise UserError(f"{path}: a file of saved labels is missing. {hint}")
        try:
            record = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        # What torch raises depends on where a file breaks off.
        except Exception as error:
            raise UserError(
                f"{path}: a file of saved labels cannot be read: {error}. {hint}"
            ) from error
        num_bytes = _count_bytes(record)
        if num_bytes != held.num_bytes:
            raise UserError(
                f"{path}: a file of saved labels has {num_bytes} bytes of tensors, not "
                f"{held.num_bytes}. {hint}"
            )
        return record


def _copy(value: Any) -> Any:
    """Copy a record; its tensors become plain, compact and on the CPU.

    Raises:
        TypeError: It holds something else than tensors and plain values.
    """
    kind = type(value)
    if kind in (torch.Tensor, torch.nn.Parameter):
        # Of a view this copies what is seen; saved itself, it would bring all the rest.
        return value.detach().to("cpu", copy=True)
    if kind is dict:
        return {_copy_key(key): _copy(entry) for key, entry in value.items()}
    if kind in (list, tuple):
        return kind(_copy(entry) for entry in value)
    if kind in _PLAIN:
        return value
    raise TypeError(f"a record holds tensors and plain values, not {kind.__name__}")


def _copy_key(key: Any) -> Any:
    if type(key) not in (str, int):
        raise TypeError(f"a record's keys are str or int, not {type(key).__name__}")
    return key


def _count_bytes(record: Any) -> int:
    """Sum up the bytes of a record's tensors."""
    if isinstance(record, torch.Tensor):
        return record.nbytes
    if isinstance(record, dict):
        return sum(map(_count_bytes, record.values()))
    if isinstance(record, (list, tuple)):
        return sum(map(_count_bytes, record))
    return 0
