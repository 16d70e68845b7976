"""Kaldi's tables: an utterance and its value on each line."""

from __future__ import annotations

import codecs
import functools
import io
import os
import zlib
from collections.abc import Callable, ItemsView, Iterator, Mapping, ValuesView
from pathlib import Path
from typing import Any

import numpy as np

from espnet_softpl.core.errors import UserError, no_file
from espnet_softpl.core.files import atomic_write

# NeMo's manifests have a JSON object on each line; lhotse's describe recordings.
FROM_JSON = (
    "Make a wav.scp of NeMo's manifest: python -c \"import json, sys; "
    "[print(f'utt{n:07}', json.loads(line)['audio_filepath']) for n, line in "
    "enumerate(sys.stdin)]\" < MANIFEST > wav.scp (likewise a text from 'text'); of "
    "lhotse's: lhotse kaldi export RECORDINGS SUPERVISIONS DIR"
)
READ_BYTES = 1 << 20
# Lines that are packed together: a look-up unpacks so many (10 us), and an entry of
# wav.scp of 65 bytes takes 17.
BLOCK = 64
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # Of ids' hashes: odd, and otherwise any.
MIX = np.uint64(0xBF58476D1CE4E5B9)  # Spreads hashes of ids that end alike; likewise.


class Table(Mapping[str, str]):
    """The lines `utterance-id value` of a file, in their order, in little memory.

    It takes about 30 bytes a line beside the file's content compressed, in a few large
    arrays that forked processes share: a dictionary has two objects of Python a line,
    and each process that touches them copies them. A look-up takes about 25 us;
    to go through all of it, use `items()`.

    With `empty`, a line may have no value, as in the `text` of silence. UserError if
    the file is missing, is not UTF-8 or begins with a byte order mark, a line is empty
    or has no value, or an id occurs twice.
    """

    def __init__(self, path: str | Path, empty: bool = False) -> None:
        if not Path(path).is_file():
            raise UserError(no_file(path))
        self._text, offsets, first_rows, hashes = bytearray(), [0], [], []
        self._length = 0
        with open(path, "rb") as file:
            while chunk := file.read(READ_BYTES):
                chunk += file.readline()
                if self._length == 0:
                    _refuse_other_forms(path, chunk)
                lines = _Lines(chunk, path, self._length + 1, empty)
                hashes.append(_horner(lines.letters, lines.begins, lines.gaps, FACTOR))
                for row in range(0, len(lines.begins), BLOCK):
                    first_rows.append(self._length + row)
                    self._text += zlib.compress(lines.between(row, row + BLOCK), 1)
                    offsets.append(len(self._text))
                self._length += len(lines.begins)
                self._add(lines)
        self._offsets, self._first_rows = np.array(offsets), np.array(first_rows)
        self._hashes = np.concatenate([*hashes, np.empty(0, np.uint64)])
        # In the order of the hashes, and of the lines if two are equal.
        self._rows = np.argsort(self._hashes, kind="stable").astype(np.int32)
        self._hashes = self._hashes[self._rows]
        self._unpacked: tuple[int, list[bytes]] = (-1, [])
        equal = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        for row in np.sort(self._rows[equal + 1]).tolist():
            if self.row_of(key := self.id_at(row)) != row:
                raise UserError(f"{path}:{row + 1}: {key} occurs twice")

    def _add(self, lines: _Lines) -> None:
        """Take what else is wanted of some lines."""

    def _line(self, row: int) -> tuple[str, str]:
        block = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        if self._unpacked[0] != block:  # One after the other, they are in one block.
            self._unpacked = (block, self._unpack(block).split(b"\n"))
        return _pair(self._unpacked[1][row - int(self._first_rows[block])])

    def _unpack(self, block: int) -> bytes:
        begin, end = self._offsets[block : block + 2].tolist()
        return zlib.decompress(memoryview(self._text)[begin:end])

    def row_of(self, key: object) -> int | None:
        """Return the row of an id; None if it is not there."""
        if not isinstance(key, str):
            return None
        wanted = 0
        for letter in key.encode("utf-8", "surrogatepass"):
            wanted = (wanted * int(FACTOR) + letter) % 2**64
        place = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        while place < self._length and self._hashes[place] == wanted:
            row = int(self._rows[place])
            if self.id_at(row) == key:
                return row
            place += 1
        return None

    def id_at(self, row: int) -> str:
        """Return the utterance of a row, 0 to the length less 1."""
        return self._line(row)[0]

    def value_at(self, row: int) -> Any:
        """Return the value of a row."""
        return self._line(row)[1]

    def lacks(self, ids: Table) -> list[str]:
        """Return ids of another table that are not in this one, in their order."""
        if not len(self):
            return list(ids)
        places = np.searchsorted(self._hashes, ids._hashes).clip(max=len(self) - 1)
        rows = ids._rows[self._hashes[places] != ids._hashes]
        return [ids.id_at(row) for row in np.sort(rows).tolist()]

    def draw(self, count: int) -> list[str]:
        """Draw ids by a hash of each: those of a larger set are mostly the same."""
        # Hashes of ids with one beginning are near each other.
        mixed = (self._hashes ^ (self._hashes >> np.uint64(32))) * MIX
        places = np.argsort(mixed, kind="stable")[:count]
        return [self.id_at(row) for row in self._rows[places].tolist()]

    def pairs_with(self, part: str) -> Iterator[tuple[str, str]]:
        """Yield ids and values of the lines that have a text in them."""
        wanted = part.encode()
        for block in range(len(self._first_rows)):
            if wanted in (text := self._unpack(block)):
                lines = (line for line in text.split(b"\n") if wanted in line)
                yield from map(_pair, lines)

    def pairs(self) -> Iterator[tuple[str, Any]]:
        """Yield ids and values in the order of the file, 0.4 us each."""
        for block in range(len(self._first_rows)):
            yield from map(_pair, self._unpack(block).split(b"\n"))

    def __getitem__(self, key: str) -> Any:
        if (row := self.row_of(key)) is None:
            raise KeyError(key)
        return self.value_at(row)

    def __iter__(self) -> Iterator[str]:
        return (key for key, _ in self.pairs())

    def __len__(self) -> int:
        return self._length

    def items(self) -> ItemsView[str, Any]:
        """Return ids and values; to go through them is fast."""
        return _Items(self)

    def values(self) -> ValuesView[Any]:
        """Return the values; to go through them is fast."""
        return _Values(self)


class _Items(ItemsView):
    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._mapping.pairs()


class _Values(ValuesView):
    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping.pairs())


class Lengths(Table):
    """A shape file, `utterance-id length[,dimension]`; `counts` (N,) are by row."""

    def __init__(self, path: str | Path) -> None:
        self._counts: list[np.ndarray] = []
        super().__init__(path)
        self.counts = np.concatenate([*self._counts, np.empty(0, np.int64)])
        del self._counts

    def _add(self, lines: _Lines) -> None:
        try:
            self._counts.append(lines.numbers())
        except ValueError as error:
            raise UserError(f"not a shape file: {error}") from error

    def value_at(self, row: int) -> int:
        """Return the length of a row."""
        return int(self.counts[row])

    def pairs(self) -> Iterator[tuple[str, int]]:
        """Yield ids and lengths in the order of the file."""
        return zip((key for key, _ in super().pairs()), memoryview(self.counts))

    def values(self) -> ValuesView[int]:
        """Return the lengths, without a look at the ids."""
        return _Counts(self)


class _Counts(ValuesView):
    def __iter__(self) -> Iterator[int]:
        return iter(memoryview(self._mapping.counts))


class _Lines:
    """Some lines, and where in them ids begin and end: arrays instead of a loop.

    Each is `id value` and a line feed; what has other white space, or letters that
    are not ASCII, is brought into this form line by line: a second a million.
    """

    def __init__(self, chunk: bytes, path: str | Path, first: int, empty: bool) -> None:
        chunk += b"" if chunk.endswith(b"\n") else b"\n"
        self._set(chunk)
        is_plain = chunk.isascii() and len(self._blanks) == np.count_nonzero(
            self.letters <= ord(" ")
        )
        before = self.letters[self._ends - 1]
        if not (
            is_plain
            and (self.begins < self.gaps).all()
            and (self.gaps < self._ends).all()
            and (before > ord(" ")).all()
        ):
            self._set(_in_form(chunk, path, first, empty))

    def _set(self, chunk: bytes) -> None:
        self.chunk, self.letters = chunk, np.frombuffer(chunk, np.uint8)
        is_end = self.letters == ord("\n")
        self._ends = np.flatnonzero(is_end)
        self.begins = np.concatenate(([0], self._ends[:-1] + 1))
        self._blanks = np.flatnonzero(is_end | (self.letters == ord(" ")))
        self.gaps = self._blanks[np.searchsorted(self._blanks, self.begins)]

    def between(self, first: int, stop: int) -> bytes:
        """Return lines from one on to another one, without the last line feed."""
        last = min(stop, len(self._ends)) - 1
        return self.chunk[self.begins[first] : self._ends[last]]

    def numbers(self) -> np.ndarray:
        """Return (N,) the whole number that each value begins with, up to a comma."""
        commas = np.append(np.flatnonzero(self.letters == ord(",")), len(self.letters))
        begins = self.gaps + 1
        ends = np.minimum(self._ends, commas[np.searchsorted(commas, begins)])
        digits, sizes = self.letters - np.uint8(ord("0")), ends - begins
        others = np.cumsum(digits > 9)  # Up to each letter.
        is_plain = (others[begins - 1] == others[ends - 1]).all()
        if is_plain and 1 <= sizes.min() and sizes.max() <= 18:
            return _horner(digits, begins, ends, np.uint64(10)).astype(np.int64)
        values = (_pair(line)[1] for line in self.chunk.splitlines())
        return np.array([int(value.split(",")[0]) for value in values], np.int64)


def _refuse_other_forms(path: str | Path, chunk: bytes) -> None:
    """Refuse a file that begins like no table."""
    if chunk.startswith(codecs.BOM_UTF8):
        # ESPnet, which reads the file too, takes it for a letter of the first id.
        raise UserError(
            f"{path} begins with a byte order mark, as some editors write it. Take it "
            f"away: sed -i '1s/^\\xEF\\xBB\\xBF//' {path}"
        )
    if chunk.partition(b"\n")[0].lstrip().startswith((b"{", b"[")):
        raise UserError(f"{path} holds JSON, not lines of 'id value'. {FROM_JSON}")


def _in_form(chunk: bytes, path: str | Path, first: int, empty: bool) -> bytes:
    """Bring lines, number `first` on, into the form that `_Lines` wants."""
    try:
        text = chunk.decode()
    except UnicodeDecodeError as error:
        hint = f". {FROM_JSON}" if ".json" in Path(path).name else ""
        raise UserError(f"{path} is not UTF-8 text ({error}){hint}") from error
    lines = []
    for number, line in enumerate(io.StringIO(text, newline=None), first):
        key, *value = line.strip().split(maxsplit=1) or [""]
        if not key:
            raise UserError(f"{path}:{number}: the line is empty")
        if not value and not empty:
            raise UserError(f"{path}:{number}: not 'utterance-id value': {line!r}")
        lines.append(f"{key} {value[0] if value else ''}\n")
    return "".join(lines).encode()


def _pair(line: bytes) -> tuple[str, str]:
    key, _, value = line.decode().partition(" ")
    return key, value.lstrip(" ")


def _horner(
    letters: np.ndarray, begins: np.ndarray, ends: np.ndarray, factor: np.uint64
) -> np.ndarray:
    """Return (N,) of each span the sum of letter * factor^(letters after it), mod 2^64.

    With 10 it is the number that digits mean; with `FACTOR` two different ids hardly
    ever have the same one.
    """
    sums = np.zeros(len(begins), np.uint64)
    for place in range(int((ends - begins).max())):
        more = sums * factor + letters[np.minimum(begins + place, ends - 1)]
        sums = np.where(begins + place < ends, more, sums)
    return sums


def read_scp(path: str | Path, empty: bool = False) -> dict[str, str]:
    """Read a `Table` into a dictionary, which is faster to look into, and larger."""
    return dict(Table(path, empty).pairs())


def read_lengths(path: str | Path) -> dict[str, int]:
    """Read `Lengths` into a dictionary, likewise."""
    return dict(Lengths(path).pairs())


def _keeping(kind: type[Table]) -> Callable[[str | Path], Any]:
    """Return what reads a table, and keeps the last one until its file changes."""

    @functools.lru_cache(maxsize=1)
    def read(path: str, *stamp: int) -> Table:
        return kind(path)

    def kept(path: str | Path) -> Table:
        stat = os.stat(path) if Path(path).is_file() else None  # noqa: PTH116
        stamp = () if stat is None else (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        return read(str(path), *stamp)

    return kept


kept_table = _keeping(Table)
kept_lengths = _keeping(Lengths)


def write_lines(path: str | Path, table: Mapping[str, object]) -> None:
    """Write `utterance value` lines in the order of the table, as one atomic step."""
    with atomic_write(path) as file:
        file.writelines(
            f"{key} {value}".rstrip() + "\n" for key, value in table.items()
        )


def write_table(path: str | Path, table: Mapping[str, object]) -> None:
    """Write `utterance value` lines sorted by utterance, as one atomic step."""
    write_lines(path, dict(sorted(table.items())))
