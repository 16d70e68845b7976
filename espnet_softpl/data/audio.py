"""What an entry of wav.scp or feats.scp names: a file, several, a part of an archive.

The forms are ESPnet's types `sound`, `multi_columns_sound` and `kaldi_ark`. Only the
headers are read until samples are asked for, also of audio inside of an archive.
Commands (Kaldi's `... |`) are the business of `pipes`; none is run here.
"""

from __future__ import annotations

import io
import re
import struct
import tokenize
import wave
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import kaldiio
import numpy as np
import soundfile

AUDIO_KINDS = ("sound", "multi_columns_sound", "kaldi_ark")


# What the readers of soundfile, kaldiio and numpy raise for files that are missing,
# torn or no audio at all.
READ_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    EOFError,
    MemoryError,  # A header that claims more samples than there can be.
    ValueError,
    RuntimeError,
    AssertionError,
    soundfile.SoundFileError,
    struct.error,
    wave.Error,
    tokenize.TokenError,
    zipfile.BadZipFile,
)


_ENTRY = re.compile(r"(?P<file>.+?)(?::(?P<offset>\d+))?(?P<range>\[[\d:,]*\])?")


_IN_ARCHIVE = re.compile(r".+(\.ark|:\d+)(\[[\d:,]*\])?")


# Sizes of audio that was written to a pipe, whose header could not be mended.
_UNKNOWN_SIZES = {0, 0x7FFFFFFF, 0xFFFFFFFF}


class Header(NamedTuple):
    """What is known of an entry without decoding it.

    Attributes:
        length: Samples, or frames of features.
        shape: What follows the length in ESPnet's array: () for audio of one channel,
            (C,) for C channels, (D,) for features.
        rate: Sample rate in Hz; None for an array without one, such as features.
        integers: Whether ESPnet reads samples as whole numbers up to 32768, as of
            Kaldi's archives of WAV files, where all other audio lies in -1 to 1.
    """

    length: int
    shape: tuple[int, ...]
    rate: int | None
    integers: bool = False


def is_command(value: str) -> bool:
    """Tell whether an entry is a command whose output is meant (Kaldi's pipes)."""
    return value.strip().endswith("|") or value.strip().startswith("|")


def guess_kind(value: str) -> str:
    """Tell the ESPnet type of an entry of a Kaldi-style wav.scp that is no command.

    Args:
        value: What follows the utterance id.

    Returns:
        `kaldi_ark` for `FILE.ark` and `FILE:OFFSET`, `multi_columns_sound` for several
        words, else `sound`.
    """
    if _IN_ARCHIVE.fullmatch(value):
        return "kaldi_ark"
    return "multi_columns_sound" if len(value.split()) > 1 else "sound"


class _Window(io.RawIOBase):
    """A part of a file, as a file of its own.

    Args:
        stream: The whole file.
        start: First byte of the part.
        size: Bytes of the part; it ends with the file at the latest.
    """

    def __init__(self, stream: io.BufferedReader, start: int, size: int) -> None:
        super().__init__()
        self._stream, self._start, self._at = stream, start, 0
        self._size = min(size, stream.seek(0, io.SEEK_END) - start)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = (0, self._at, self._size)[whence]
        self._at = max(base + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._stream.seek(self._start + self._at)
        wanted = max(min(len(buffer), self._size - self._at), 0)
        data = self._stream.read(wanted)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class _Entry(NamedTuple):
    """An open entry of an archive.

    Attributes:
        stream: The archive, at the entry's first byte.
        start: That byte's number.
        flag: The first bytes, which tell the entry's form.
        limits: The range of the entry that is meant, such as `[0:9]`; or nothing.
    """

    stream: io.BufferedReader
    start: int
    flag: bytes
    limits: str


def _split(value: str) -> tuple[str, int, str]:
    """Split `FILE[:OFFSET][RANGE]` into file, offset in bytes, and range."""
    match = _ENTRY.fullmatch(value)
    if match is None:
        raise ValueError(f"{value!r} is no entry of an archive")
    return match["file"], int(match["offset"] or 0), match["range"] or ""


@contextmanager
def _open_entry(value: str) -> Iterator[_Entry]:
    """Open an archive at an entry.

    Raises:
        OSError: The archive cannot be read.
        ValueError: The entry is a pickle, which could run code when it is loaded.
    """
    file, offset, limits = _split(value)
    with open(file, "rb") as stream:
        stream.seek(offset)
        flag = stream.read(12)
        if flag.startswith(b"PKL"):
            raise ValueError(f"{value} is a Python pickle, which is never loaded")
        stream.seek(offset)
        yield _Entry(stream, offset, flag, limits)


def refuse_pickle(value: str) -> None:
    """Raise ValueError where an entry of an archive is a Python pickle.

    Args:
        value: `FILE[:OFFSET][RANGE]`.

    Raises:
        ValueError: It is.
        OSError: The archive cannot be read.
    """
    with _open_entry(value):
        pass


def _audio_of(entry: _Entry) -> _Window | None:
    """Return the audio file inside of an archive, or None where the entry is none.

    Raises:
        ValueError: Only a range of the audio is meant.
    """
    stream, start, flag, limits = entry
    if flag.startswith((b"AUDIO", b"RIFF", b"fLaC")) and limits:
        raise ValueError(f"the range {limits} of audio; use a file 'segments'")
    if flag.startswith(b"AUDIO"):
        count = flag[5]
        stream.seek(start + 6)
        size = int.from_bytes(stream.read(count), "little")
        return _Window(stream, start + 6 + count, size)
    if flag.startswith(b"RIFF"):
        size = int.from_bytes(flag[4:8], "little")
        return _Window(stream, start, 2**62 if size in _UNKNOWN_SIZES else size + 8)
    if flag.startswith(b"fLaC"):
        return _Window(stream, start, 2**62)
    return None


def _array_shape(entry: _Entry, value: str) -> tuple[int, ...]:
    """Return the shape of a matrix or vector, from its header where that tells."""
    stream, start, flag, limits = entry
    kind = flag[2:5]
    # The formats of Kaldi's binary matrices: name, one byte with the size of an
    # integer, the integer.
    if flag[:2] == b"\0B" and not limits:
        if kind in (b"FM ", b"DM "):
            stream.seek(start + 5)
            return struct.unpack("<xixi", stream.read(10))
        if kind in (b"FV ", b"DV "):
            stream.seek(start + 5)
            return struct.unpack("<xi", stream.read(5))
        if kind[:2] == b"CM":
            # Least value and range come before the number of rows and columns.
            stream.seek(start + 2 + len(flag[2:].split(b" ")[0]) + 1)
            return struct.unpack("<ffii", stream.read(16))[2:]
    loaded = kaldiio.load_mat(value)
    if not isinstance(loaded, np.ndarray):
        raise ValueError(f"{value} is neither audio nor an array of numbers")
    return loaded.shape


def read_header(value: str, kind: str) -> Header:
    """Find the length, shape and sample rate of an entry.

    Args:
        value: What follows the utterance id.
        kind: Its ESPnet type, one of `AUDIO_KINDS`.

    Returns:
        What ESPnet would load.

    Raises:
        ValueError: The entry is a command or a pickle, or what it names is no audio;
            or one of the other `READ_ERRORS`.
    """
    if is_command(value):
        raise ValueError(f"{value!r} is a command, and only files are read here")
    if kind == "kaldi_ark":
        with _open_entry(value) as entry:
            window = _audio_of(entry)
            if window is None:
                length, *rest = _array_shape(entry, value)
                return Header(length, tuple(rest), None)
            integers = entry.flag.startswith(b"RIFF")
            with soundfile.SoundFile(window) as file:
                form = file.subtype
                if integers and form not in ("PCM_16", "PCM_U8"):
                    raise ValueError(f"kaldiio reads WAV of 16 bits, not {form}")
                return _header_of([file])._replace(integers=integers)
    with open_audio(value, kind) as files:
        return _header_of(files)


def _header_of(files: Sequence[soundfile.SoundFile]) -> Header:
    """Describe audio files that are the channels of one recording."""
    first = files[0]
    for file in files[1:]:
        if (file.samplerate, file.frames) != (first.samplerate, first.frames):
            raise ValueError(
                f"{file.name} has {file.frames} samples at {file.samplerate} Hz, and "
                f"{first.name} {first.frames} at {first.samplerate} Hz"
            )
    channels = sum(file.channels for file in files)
    shape = () if channels == 1 else (channels,)
    return Header(first.frames, shape, first.samplerate)


@contextmanager
def open_audio(value: str, kind: str) -> Iterator[list[soundfile.SoundFile]]:
    """Open the audio files of an entry.

    Args:
        value: What follows the utterance id.
        kind: Its ESPnet type, one of `AUDIO_KINDS`.

    Yields:
        One file, or several whose channels belong together.

    Raises:
        ValueError: The entry is no audio; or one of the other `READ_ERRORS`.
    """
    with ExitStack() as stack:
        if kind == "kaldi_ark":
            window = _audio_of(stack.enter_context(_open_entry(value)))
            if window is None:
                raise ValueError("no audio but an array of numbers, such as features")
            yield [stack.enter_context(soundfile.SoundFile(window))]
            return
        names = value.split() if kind == "multi_columns_sound" else [value]
        yield [stack.enter_context(soundfile.SoundFile(name)) for name in names]
