"""Kaldi's tables: an utterance and its value on each line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import atomic_write


def read_scp(path: str | Path, empty: bool = False) -> dict[str, str]:
    """Read lines of `utterance-id value`, such as wav.scp or text, in their order.

    White space inside of a value is left as it is. With `empty`, a line may have no
    value, as in the `text` of silence.

    Raises:
        UserError: The file is missing or is not UTF-8, a line is empty or has no
            value, or an id occurs twice.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist")
    try:
        with open(path, encoding="utf-8") as file:
            lines = list(file)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error})") from error
    entries: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        key, *value = line.strip().split(maxsplit=1) or [""]
        if not key:
            raise UserError(f"{path}:{number}: the line is empty")
        if not value and not empty:
            raise UserError(f"{path}:{number}: not 'utterance-id value': {line!r}")
        if key in entries:
            raise UserError(f"{path}:{number}: {key} occurs twice")
        entries[key] = value[0] if value else ""
    return entries


def read_lengths(path: str | Path) -> dict[str, int]:
    """Read lengths from a shape file of ESPnet, `utterance-id length[,dimension]`."""
    try:
        return {k: int(v.split(",")[0]) for k, v in read_scp(path).items()}
    except ValueError as error:
        raise UserError(f"not a shape file: {error}") from error


def write_lines(path: str | Path, table: Mapping[str, object]) -> None:
    """Write `utterance value` lines in the order of the table, as one atomic step."""
    with atomic_write(path) as file:
        file.writelines(
            f"{key} {value}".rstrip() + "\n" for key, value in table.items()
        )


def write_table(path: str | Path, table: Mapping[str, object]) -> None:
    """Write `utterance value` lines sorted by utterance, as one atomic step."""
    write_lines(path, dict(sorted(table.items())))
