"""Records of tensors by slot, one after the other in files: segments."""

from __future__ import annotations

import io
import os
import re
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import load_state, reading, sync
from espnet_softpl.core.ranges import at_least

_FILE_NAME = re.compile(r"segment(\d+)\.bin|slot\d+-\d+\.pt")
_PLAIN = (str, int, float, bool, type(None))
_HINT = "Bring it back, or start the run again."

SEGMENT_BYTES = 2**26  # A segment that is as long gets no more records.
# Records that were replaced stay in their segments. As soon as the segments are this
# many times what is in the slots, the emptiest are copied. Since the state before the
# last one names them a while longer, the directory is then about twice as large.
MOST_SPACE = 1.5


class LabelStore:
    """Holds one record per slot: tensors and plain values in dict, list and tuple.

    Records are compressed, and appended to a segment, the file `segment17.bin`. A state
    has of each slot the segment, the place there, and a checksum made while it was
    written. What a state names is never written to again, nor are names given twice, so
    that every saved state finds its own; `forget` deletes segments that no state needs.
    One store, and so one process, per directory, which is made when it is needed.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        # By slot: segment (0 if it is empty), first byte, bytes, CRC-32. Of a million
        # slots 32 MB; tuples would take ten times as much.
        self._places = np.zeros((0, 4), dtype=np.int64)
        self._unsynced: set[int] = set()
        # A run that was killed may have left segments of higher numbers than any state.
        self._number = self._highest_number()
        self._end: int | None = None  # Of the segment that grows, if there is one.

    def put(self, slot: int, record: Any) -> None:
        """Keep a record, in the place of the one in that slot."""
        at_least("slot", slot, 0)
        file = io.BytesIO()
        torch.save(_plain(record), file)
        self._append(slot, zlib.compress(file.getbuffer(), 1))

    def get(self, slot: int) -> Any:
        """Read a record; UserError if its segment is missing or damaged."""
        if slot not in self:
            raise KeyError(slot)
        block = self._read(slot)
        with reading(self._path(self._places[slot, 0])):
            file = io.BytesIO(zlib.decompress(block))
            return torch.load(file, map_location="cpu", weights_only=True)

    def __contains__(self, slot: int) -> bool:
        return slot < len(self._places) and self._places[slot, 0] > 0

    def slots(self) -> list[int]:
        """Return the slots that are not empty, in order."""
        return np.flatnonzero(self._places[:, 0]).tolist()

    def clear(self) -> None:
        """Empty all slots; files stay until `forget`, for saved states name them."""
        self._places = self._places[:0]

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, once the files that it names are on disk."""
        self._end = None
        self._copy_emptiest()
        self._end = None
        slots, segments = self.slots(), self._segments()
        for number in self._unsynced.intersection(segments):
            sync(self._path(number))
        if self._unsynced:
            sync(self._directory)
        self._unsynced.clear()
        return {
            "number": self._number,
            "segments": segments,
            "slots": torch.tensor(slots, dtype=torch.long),
            "places": torch.from_numpy(self._places[slots]),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Hold what a state says, or raise UserError and stay as before."""
        before, self._places = self._places, self._places[:0]
        try:
            # Of earlier versions: a file per slot.
            for slot, name in state.get("files", {}).items():
                path = self._directory / name
                _check_file(path)
                self.put(slot, load_state(path))
            if "places" in state:
                slots = state["slots"].numpy()
                self._places = np.zeros((max(slots, default=-1) + 1, 4), np.int64)
                self._places[slots] = state["places"].numpy()
                for slot in slots:
                    self._read(slot)
        except BaseException:
            self._places = before
            raise
        # Segments written after the state may be named by a later one.
        self._number = max(self._number, state["number"], self._highest_number())
        self._end = None

    def forget(self, keep: Iterable[dict[str, Any]]) -> None:
        """Delete files that neither the store nor a state to keep needs."""
        needed = {self._path(number).name for number in self._segments()}
        for state in keep:
            needed.update(self._path(n).name for n in state.get("segments", ()))
            needed.update(state.get("files", {}).values())
        self._end = None  # Of a segment that may be gone now.
        for path in self._directory.glob("s*"):
            if _FILE_NAME.fullmatch(path.name) and path.name not in needed:
                path.unlink()

    def _path(self, number: int) -> Path:
        return self._directory / f"segment{number}.bin"

    def _segments(self) -> list[int]:
        return np.unique(self._places[self.slots(), 0]).tolist()

    def _highest_number(self) -> int:
        """Return the highest number among the segments of the directory, or 0."""
        names = map(_FILE_NAME.fullmatch, (p.name for p in self._directory.glob("s*")))
        return max((int(name[1]) for name in names if name and name[1]), default=0)

    def _append(self, slot: int, block: bytes) -> None:
        """Write a block behind the others; what a full disk took of it is undone."""
        if self._end is None or self._end >= SEGMENT_BYTES:
            self._number, self._end = self._number + 1, 0
        end, path = self._end, self._path(self._number)
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("ab") as file:
                file.write(block)
        except BaseException:
            if path.exists():
                os.truncate(path, end)
            raise
        self._unsynced.add(self._number)
        self._end = end + len(block)
        if slot >= len(self._places):
            places = np.zeros((max(slot + 1, 2 * len(self._places)), 4), np.int64)
            places[: len(self._places)] = self._places
            self._places = places
        self._places[slot] = self._number, end, len(block), zlib.crc32(block)

    def _read(self, slot: int) -> bytes:
        """Read the block of a slot, and refuse it if it is not what was written."""
        number, begin, size, checksum = self._places[slot].tolist()
        path = self._path(number)
        _check_file(path)
        with path.open("rb", buffering=0) as file:
            file.seek(begin)
            block = file.read(size)
        if zlib.crc32(block) != checksum:
            raise UserError(
                f"saved labels: {path} is damaged: the {size} bytes from {begin} on "
                f"are not what was written. {_HINT}"
            )
        return block

    def _copy_emptiest(self) -> None:
        """Copy what is left in the emptiest segments, until `MOST_SPACE` is kept."""
        of_slot, sizes = self._places[:, 0], {}
        used = np.bincount(of_slot, self._places[:, 2])
        for number in self._segments():
            _check_file(self._path(number))
            sizes[number] = self._path(number).stat().st_size
        space = sum(sizes.values())
        for number in sorted(sizes, key=lambda n: used[n] / max(sizes[n], 1)):
            if space <= MOST_SPACE * used.sum():
                break
            for slot in np.flatnonzero(of_slot == number).tolist():
                self._append(slot, self._read(slot))
            space -= sizes[number] - used[number]


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: a file of saved labels is missing. {_HINT}")


def _plain(value: Any) -> Any:
    """Copy a record to the CPU; of a view what is seen, without the rest behind it."""
    kind = type(value)
    if kind in (torch.Tensor, torch.nn.Parameter):
        return value.detach().to("cpu", copy=True)
    if kind is dict and all(type(key) in (str, int) for key in value):
        return {key: _plain(entry) for key, entry in value.items()}
    if kind in (list, tuple):
        return kind(_plain(entry) for entry in value)
    if kind in _PLAIN:
        return value
    raise TypeError(f"a record holds tensors and plain values, not {kind.__name__}")
