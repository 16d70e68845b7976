"""Entries of wav.scp and feats.scp: files, places in archives, commands."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import tokenize
import wave
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import kaldiio
import numpy as np
import soundfile

AUDIO_KINDS = ("sound", "multi_columns_sound", "kaldi_ark")

# What the readers of soundfile, kaldiio and numpy raise for files that are missing,
# torn or no audio at all.
READ_ERRORS: tuple[type[Exception], ...] = (
    *(OSError, EOFError, ValueError, RuntimeError, AssertionError, struct.error),
    *(soundfile.SoundFileError, wave.Error, tokenize.TokenError, zipfile.BadZipFile),
    MemoryError,  # A header that claims more samples than there can be.
)

# Commands, as Kaldi's pipes: entries that end in `|`, whose output is the audio.
_FILE = r"""([^\s"'\\$`*?~;&<>()|]+)"""  # Of characters that a shell takes as they are.
_COPY = re.compile(rf"(?:\S*/)?(?:wav-copy\s+{_FILE}\s+-|cat\s+{_FILE})\s*\|")
_SIGPIPE = 128 + 13  # bash's status of a program whose reader wanted no more.
# FILE[:OFFSET][RANGE], e.g. wav.ark:1234[0:9]; it matches every text.
_ENTRY = re.compile(r"(?P<file>.*?)(?::(?P<offset>\d+))?(?:\[[\d:,]*\])?", re.DOTALL)


class Header(NamedTuple):
    """What is known of an entry without decoding it."""

    length: int  # Samples, or frames of features.
    shape: tuple[int, ...]  # () for one channel, (C,) for C of them, (D,) for features.
    rate: int | None  # In Hz; None for an array without one, such as features.
    integers: bool = False  # WAV in an archive: ESPnet reads it as up to 32768, not 1.


def guess_kind(value: str) -> str:
    """Tell ESPnet's type of an entry of wav.scp, one of `AUDIO_KINDS`, by its form."""
    entry = _ENTRY.fullmatch(value)
    if entry["offset"] or entry["file"].endswith(".ark"):
        return "kaldi_ark"
    return "multi_columns_sound" if len(value.split()) > 1 else "sound"


def files_of(value: str, kind: str) -> list[str]:
    """Name the files that an entry of one of the `AUDIO_KINDS` is read from."""
    if kind == "kaldi_ark":
        return [_ENTRY.fullmatch(value)["file"]]
    return value.split() if kind == "multi_columns_sound" else [value]


def is_command(value: str) -> bool:
    """Tell whether an entry is a command whose output is meant."""
    return value.strip().endswith("|") or value.strip().startswith("|")


def copied_file(value: str) -> str | None:
    """Return X of `wav-copy X - |` and `cat X |`, which Kaldi writes; else None."""
    match = _COPY.fullmatch(value.strip())
    return match and (match[1] or match[2])


def run_pipe(value: str) -> bytes:
    """Run an entry that ends in `|` with bash, as Kaldi does; return what it writes.

    That is for who consented (`--allow_pipes true`). ValueError if it is no command,
    RuntimeError, with the end of its error output, if it fails.
    """
    command = value.strip().removesuffix("|")
    if command == value.strip() or not command.strip():
        raise ValueError(f"{value!r} is no command that ends in '|'")
    # With `pipefail` the status tells of every program of a pipeline. No input: a
    # program that reads would wait for ever.
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode not in (0, _SIGPIPE):
        said = " ".join(done.stderr[-300:].decode("utf-8", "replace").split())
        raise RuntimeError(f"{value!r} ended with status {done.returncode}: {said}")
    return done.stdout


@contextmanager
def _open_entry(value: str) -> Iterator[tuple[BinaryIO, bytes]]:
    """Open an archive at an entry; yield it and the entry's first eight bytes."""
    entry = _ENTRY.fullmatch(value)
    start = int(entry["offset"] or 0)
    refuse_special(entry["file"])
    with open(entry["file"], "rb") as stream:
        stream.seek(start)
        mark = stream.read(8)
        if mark.startswith(b"PKL"):
            raise ValueError(f"{value} is a Python pickle, which is never loaded")
        stream.seek(start)
        yield stream, mark


def refuse_special(file: str) -> None:
    """Raise OSError for what is missing or no file, such as a FIFO to wait at."""
    if not Path(file).exists():  # libsndfile says "System error".
        raise FileNotFoundError(f"{file} does not exist")
    if not Path(file).is_file():
        raise OSError(f"{file} is no regular file")


def refuse_pickle(value: str) -> None:
    """Raise ValueError if an entry of an archive is a pickle, which could run code."""
    with _open_entry(value):
        pass


def _audio_in_archive(value: str) -> tuple[io.BytesIO | None, bool]:
    """Read the audio file inside of an archive, if it is one; tell whether it is WAV.

    ESPnet writes `AUDIO`, one byte with the size of an integer, the integer, and as
    many bytes of audio; Kaldi writes WAV; FLAC occurs as well.
    """
    with _open_entry(value) as (stream, mark):
        size = most = os.fstat(stream.fileno()).st_size
        is_wav = mark.startswith(b"RIFF")
        if mark.startswith(b"AUDIO"):
            stream.seek(5, os.SEEK_CUR)
            digits = int.from_bytes(stream.read(1), "little")
            size = int.from_bytes(stream.read(digits), "little")
        elif is_wav:
            # What follows these eight bytes; 0 if WAV was written to a pipe.
            size = int.from_bytes(mark[4:], "little") + 8
            size = most if size == 8 else size
        elif not mark.startswith(b"fLaC"):
            return None, False
        if value.endswith("]"):
            raise ValueError(f"{value} is a range of audio; use a file 'segments'")
        return io.BytesIO(stream.read(min(size, most))), is_wav


@contextmanager
def open_audio(value: str, kind: str) -> Iterator[list[soundfile.SoundFile]]:
    """Open an entry's files, channels of it; one of `READ_ERRORS` if it cannot."""
    files: Sequence[str | io.BytesIO] = files_of(value, kind)
    if kind == "pipe":
        files = [io.BytesIO(run_pipe(value))]
    elif kind == "kaldi_ark":
        audio, _ = _audio_in_archive(value)
        if audio is None:
            raise ValueError("no audio but an array of numbers, such as features")
        files = [audio]
    else:
        for file in files:
            refuse_special(file)
    with ExitStack() as stack:
        yield [stack.enter_context(soundfile.SoundFile(file)) for file in files]


def read_header(value: str, kind: str) -> Header:
    """Describe what ESPnet loads for an entry of a type, or raise `READ_ERRORS`."""
    if is_command(value):
        raise ValueError(f"{value!r} is a command, and only files are read here")
    if kind != "kaldi_ark":
        with open_audio(value, kind) as files:
            return header_of(files)
    audio, is_wav = _audio_in_archive(value)
    if audio is None:
        array = kaldiio.load_mat(value)
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{value} is neither audio nor an array of numbers")
        length, *shape = array.shape  # ValueError if it is a single number.
        return Header(length, tuple(shape), None)
    with soundfile.SoundFile(audio) as file:
        if is_wav and file.subtype not in ("PCM_16", "PCM_U8"):
            raise ValueError(f"kaldiio reads WAV of 16 bits, not {file.subtype}")
        return header_of([file])._replace(integers=is_wav)


def header_of(files: Sequence[soundfile.SoundFile]) -> Header:
    """Describe files that are channels of one recording; ValueError if they differ."""
    first = files[0]
    for file in files[1:]:
        if (file.samplerate, file.frames) != (first.samplerate, first.frames):
            raise ValueError(
                f"{file.name} has {file.frames} samples at {file.samplerate} Hz, and "
                f"{first.name} {first.frames} at {first.samplerate} Hz"
            )
    channels = sum(file.channels for file in files)
    shape = (channels,) if channels > 1 else ()
    return Header(first.frames, shape, first.samplerate)
