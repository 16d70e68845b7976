"""Kaldi-style directories: `wav.scp`, and `segments` that are cut out of its audio."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from espnet_softpl.core.errors import UserError, name_some
from espnet_softpl.data.audio import copied_file, files_of, guess_kind, is_command
from espnet_softpl.data.tables import read_scp


class Cut(NamedTuple):
    """An utterance as a part of a recording."""

    utterance: str
    start: float = 0.0  # In seconds.
    end: float | None = None  # In seconds; None at the end of the recording.
    channel: int | None = None  # From 0; None for the mean of all.

    @property
    def whole(self) -> bool:
        """Whether it is all of its recording."""
        return self == Cut(self.utterance)


class Recording(NamedTuple):
    """An entry of wav.scp and the utterances in it."""

    value: str  # File, files, place in an archive, or command.
    kind: str  # ESPnet's type of it, or `pipe`.
    cuts: tuple[Cut, ...]  # The utterances, at least one.


def read_recordings(
    directory: str | Path, allow_pipes: bool = False
) -> list[Recording]:
    """Read and check the recordings that have utterances, in the order of `wav.scp`.

    UserError if a file is missing or malformed, an utterance's id contains a slash, or
    there is a command that is not allowed.
    """
    scp, segments = Path(directory) / "wav.scp", Path(directory) / "segments"
    # A command that only copies a file is that file.
    wav = {name: copied_file(value) or value for name, value in read_scp(scp).items()}
    if not wav:
        raise UserError(f"{scp} is empty")
    whole = {name: [Cut(name)] for name in wav}
    cuts = read_segments(segments, wav) if segments.exists() else whole
    for cut in itertools.chain(*cuts.values()):
        if "/" in cut.utterance:
            raise UserError(f"{scp}: utterance {cut.utterance} must not contain '/'")
    used = [(value, cuts[name]) for name, value in wav.items() if name in cuts]
    recordings = [Recording(value, _kind_of(value), tuple(of)) for value, of in used]
    pipes = [value for value, kind, _ in recordings if kind == "pipe"]
    if pipes and not allow_pipes:
        raise UserError(
            f"{scp}: {len(pipes)} entries are commands ('{pipes[0]}'), and a data "
            f"file must not run programs unasked. If you trust it: --allow_pipes true "
            f"(a shell runs each once)"
        )
    parts = [files_of(value, kind) for value, kind, _ in recordings if kind != "pipe"]
    files = set(itertools.chain(*parts))
    if missing := [file for file in files if not Path(file).is_file()]:
        raise UserError(
            f"{len(missing)} of {len(files)} files in {scp} do not exist: "
            f"{name_some(missing)} (relative paths start at the current directory; a "
            f"path of several words is taken for several files)"
        )
    return recordings


def _kind_of(value: str) -> str:
    """Tell ESPnet's type of an entry, or `pipe`; a file's name may have spaces."""
    if is_command(value):
        return "pipe"
    return "sound" if Path(value).is_file() else guess_kind(value)


def read_segments(path: Path, recordings: Mapping[str, str]) -> dict[str, list[Cut]]:
    """Read lines of `utterance recording start end [channel]`, by recording.

    Start and end are in seconds; an end of -1 is that of the recording. Channels count
    from 0, or are A and B.
    """
    cuts: dict[str, list[Cut]] = {}
    for utterance, value in read_scp(path).items():
        name, *words = value.split()
        try:
            cuts.setdefault(name, []).append(_parse_cut(utterance, words))
        except ValueError as error:
            raise UserError(
                f"{path}: {utterance}: {value!r} is not 'recording start end "
                f"[channel]' with 0 <= start < end in seconds: {error}"
            ) from error
    if unknown := cuts.keys() - recordings.keys():
        count = sum(len(cuts[name]) for name in unknown)
        raise UserError(
            f"{path}: {count} utterances are cut out of recordings that wav.scp "
            f"does not have: {name_some(unknown)}"
        )
    if not cuts:
        raise UserError(f"{path} is empty")
    return cuts


def _parse_cut(utterance: str, words: list[str]) -> Cut:
    """Parse start, end and perhaps channel; ValueError if they are not allowed."""
    if len(words) not in (2, 3):
        raise ValueError(f"{len(words) + 2} columns")
    start, end = map(float, words[:2])
    if not (math.isfinite(start) and math.isfinite(end) and start >= 0.0):
        raise ValueError("not a time")
    if end != -1.0 and end <= start:
        raise ValueError("the end is not after the start")
    channel = int({"A": "0", "B": "1"}.get(words[2], words[2])) if words[2:] else None
    if channel is not None and channel < 0:
        raise ValueError("no channel")
    return Cut(utterance, start, None if end == -1.0 else end, channel)
