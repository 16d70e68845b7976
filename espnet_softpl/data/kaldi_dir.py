"""Kaldi-style directories: which audio each utterance of a user's is, and writing.

`wav.scp` names the audio of utterances, or, where there is a file `segments`, that of
recordings which utterances are cut out of. An entry may be an audio file, several of
them (channels), a place in a Kaldi archive, or a command whose output is meant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet_softpl.core.errors import UserError, name_some
from espnet_softpl.data.audio import guess_kind, is_command
from espnet_softpl.data.pipes import copied_file, split_pipeline
from espnet_softpl.data.tables import read_scp


@dataclass(frozen=True)
class Cut:
    """An utterance as a part of a recording.

    Attributes:
        utterance: Its id.
        start: Where it begins, in seconds.
        end: Where it ends, in seconds; None at the end of the recording.
        channel: The channel that it is in, from 0; None for the mean of all.
    """

    utterance: str
    start: float = 0.0
    end: float | None = None
    channel: int | None = None

    @property
    def whole(self) -> bool:
        """Whether it is all of its recording."""
        return self.start == 0.0 and self.end is None and self.channel is None


@dataclass(frozen=True)
class Recording:
    """An entry of wav.scp and the utterances in it.

    Attributes:
        value: File, files, place in an archive, or command.
        kind: ESPnet's type of it, or `pipe`.
        cuts: The utterances, at least one.
    """

    value: str
    kind: str
    cuts: tuple[Cut, ...]


def read_recordings(
    directory: str | Path, allow_pipes: bool = False
) -> list[Recording]:
    """Read and check the audio side of a Kaldi-style directory.

    Args:
        directory: It holds `wav.scp` and perhaps `segments`.
        allow_pipes: Whether commands may be run, without a shell; `cat FILE |` and
            `wav-copy FILE - |` are read as the file in any case.

    Returns:
        The recordings that have utterances, in the order of `wav.scp`.

    Raises:
        UserError: A file is missing or malformed, an utterance's id contains a slash,
            an audio file does not exist, or there is a command that is not allowed or
            needs a shell.
    """
    scp = Path(directory) / "wav.scp"
    wav = {name: _simplify(value) for name, value in read_scp(scp).items()}
    if not wav:
        raise UserError(f"{scp} is empty")
    segments = Path(directory) / "segments"
    if segments.exists():
        cuts = read_segments(segments, wav)
    else:
        cuts = {name: [Cut(name)] for name in wav}
    recordings = [
        Recording(value, _kind_of(value), tuple(cuts[name]))
        for name, value in wav.items()
        if name in cuts
    ]
    _check(scp, recordings, allow_pipes)
    return recordings


def _simplify(value: str) -> str:
    """Return the file instead of a command that only copies it."""
    return copied_file(value) or value


def _kind_of(value: str) -> str:
    """Tell ESPnet's type of an entry, or `pipe`; a file's name may have spaces."""
    if is_command(value):
        return "pipe"
    return "sound" if Path(value).is_file() else guess_kind(value)


def _files_of(recording: Recording) -> list[str]:
    """Name the files that a recording is read from; of a pipe none is known."""
    if recording.kind == "kaldi_ark":
        file = recording.value.partition("[")[0]
        name, _, offset = file.rpartition(":")
        return [name if name and offset.isdigit() else file]
    if recording.kind == "multi_columns_sound":
        return recording.value.split()
    return [recording.value] if recording.kind == "sound" else []


def _check(scp: Path, recordings: list[Recording], allow_pipes: bool) -> None:
    """Refuse recordings that cannot be read."""
    for recording in recordings:
        slashes = [cut.utterance for cut in recording.cuts if "/" in cut.utterance]
        if slashes:
            raise UserError(f"{scp}: utterance {slashes[0]} must not contain '/'")
    pipes = [recording.value for recording in recordings if recording.kind == "pipe"]
    if pipes and not allow_pipes:
        raise UserError(
            f"{scp}: {len(pipes)} entries are commands ('{pipes[0]}'), and a data "
            f"file must not run programs unasked. If you trust it: --allow_pipes true "
            f"(run once each, without a shell)"
        )
    for value in pipes:
        try:
            split_pipeline(value)
        except ValueError as error:
            raise UserError(f"{scp}: {error}") from error
    files = {file for recording in recordings for file in _files_of(recording)}
    missing = [file for file in files if not Path(file).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(files)} files in {scp} do not exist: "
            f"{name_some(missing)} (relative paths start at the current directory; a "
            f"path of several words is taken for several files)"
        )


def read_segments(path: Path, recordings: Mapping[str, str]) -> dict[str, list[Cut]]:
    """Read a file `segments`: `utterance recording start end [channel]`.

    Start and end are in seconds; an end of -1 is that of the recording. Channels count
    from 0, or are A and B.

    Args:
        path: The file.
        recordings: `wav.scp`.

    Returns:
        Utterances by recording.

    Raises:
        UserError: A line is malformed, or its recording is not in `wav.scp`.
    """
    found: dict[str, list[Cut]] = {}
    unknown: list[str] = []
    for utterance, value in read_scp(path).items():
        words = value.split()
        try:
            name, start, end, channel = _parse_segment(words)
        except ValueError as error:
            raise UserError(
                f"{path}: {utterance}: {value!r} is not 'recording start end "
                f"[channel]' with 0 <= start < end in seconds: {error}"
            ) from error
        if name not in recordings:
            unknown.append(name)
        found.setdefault(name, []).append(Cut(utterance, start, end, channel))
    if unknown:
        raise UserError(
            f"{path}: {len(unknown)} utterances are cut out of recordings that wav.scp "
            f"does not have: {name_some(set(unknown))}"
        )
    if not found:
        raise UserError(f"{path} is empty")
    return found


def _parse_segment(words: list[str]) -> tuple[str, float, float | None, int | None]:
    """Return recording, start, end and channel; ValueError where they are illegal."""
    if len(words) not in (3, 4):
        raise ValueError(f"{len(words) + 1} columns")
    start, end = float(words[1]), float(words[2])
    channel = None
    if len(words) == 4:
        channel = {"A": 0, "B": 1}.get(words[3])
        channel = int(words[3]) if channel is None else channel
    to_the_end = end == -1.0
    if not (math.isfinite(start) and math.isfinite(end) and start >= 0.0):
        raise ValueError("not a time")
    if not to_the_end and end <= start:
        raise ValueError("the end is not after the start")
    if channel is not None and channel < 0:
        raise ValueError("no channel")
    return words[0], start, None if to_the_end else end, channel
