"""Kaldi's tables: an utterance and its value on each line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import atomic_write

# NeMo's manifests have a JSON object on each line; lhotse's describe recordings.
FROM_JSON = (
    "Make a wav.scp of NeMo's manifest: python -c \"import json, sys; "
    "[print(f'utt{n:07}', json.loads(line)['audio_filepath']) for n, line in "
    "enumerate(sys.stdin)]\" < MANIFEST > wav.scp (likewise a text from 'text'); of "
    "lhotse's: lhotse kaldi export RECORDINGS SUPERVISIONS DIR"
)


def read_scp(path: str | Path, empty: bool = False) -> dict[str, str]:
    """Read lines of `utterance-id value`, such as wav.scp or text, in their order.

    White space inside of a value is left as it is. With `empty`, a line may have no
    value, as in the `text` of silence.

    Raises:
        UserError: The file is missing, is not UTF-8 or begins with a byte order mark,
            a line is empty or has no value, or an id occurs twice.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist")
    try:
        with open(path, encoding="utf-8") as file:
            lines = list(file)
    except UnicodeDecodeError as error:
        hint = f". {FROM_JSON}" if ".json" in Path(path).name else ""
        raise UserError(f"{path} is not UTF-8 text ({error}){hint}") from error
    if lines and lines[0].startswith("\ufeff"):
        # ESPnet, which reads the file too, takes it for a letter of the first id.
        raise UserError(
            f"{path} begins with a byte order mark, as some editors write it. Take it "
            f"away: sed -i '1s/^\\xEF\\xBB\\xBF//' {path}"
        )
    if lines and lines[0].lstrip().startswith(("{", "[")):
        raise UserError(f"{path} holds JSON, not lines of 'id value'. {FROM_JSON}")
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
