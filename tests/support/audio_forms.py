"""Tiny Kaldi-style directories of every form that users have."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import kaldiio
import numpy as np
import soundfile

from espnet_softpl.data.tables import read_scp

RATE = 16000
# A program that writes a file as if to a pipe, and is on every machine that has tests.
COPY = 'import sys; sys.stdout.buffer.write(open(sys.argv[1], "rb").read())'
CAT = f"{sys.executable} -c '{COPY}'"


def noise(seed: int, seconds: float = 0.6, rate: int = RATE, channels: int = 1):
    """Draw audio, (N,) or (N, C), unlike that of every other seed."""
    rng = np.random.default_rng(seed)
    size = int(seconds * rate)
    shape = size if channels == 1 else (size, channels)
    return (0.1 * rng.standard_normal(shape)).astype(np.float32)


def write_lines(path: Path, table: Mapping[str, str]) -> Path:
    """Write a Kaldi table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{key} {value}".rstrip() + "\n" for key, value in table.items()]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def read_entries(directory: Path) -> dict[str, str]:
    """Read a directory's wav.scp."""
    return read_scp(directory / "wav.scp")


def write_plain(
    directory: Path, texts: list[str] | int, seed: int, rate: int = RATE, **more: int
) -> Path:
    """Write a directory of plain WAV files, with transcripts where they are given."""
    count = texts if isinstance(texts, int) else len(texts)
    names = [f"{directory.name}-{number}" for number in range(count)]
    wav = {}
    for number, name in enumerate(names):
        wav[name] = str(directory.resolve() / f"{name}.wav")
        Path(wav[name]).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(wav[name], noise(seed + number, rate=rate, **more), rate)
    write_lines(directory / "wav.scp", wav)
    if not isinstance(texts, int):
        write_lines(directory / "text", dict(zip(names, texts, strict=True)))
    return directory


def write_segments(directory: Path, seed: int, rate: int = RATE) -> Path:
    """Write two recordings of two channels, 2 s each, and three parts of them."""
    directory.mkdir(parents=True, exist_ok=True)
    wav = {}
    for number, name in enumerate(("call1", "call2")):
        wav[name] = str(directory.resolve() / f"{name}.flac")
        audio = noise(seed + number, 2.0, rate, channels=2)
        soundfile.write(wav[name], audio, rate)
    write_lines(directory / "wav.scp", wav)
    parts = {
        "call1-1": "call1 0.25 1.0 A",
        "call1-2": "call1 1.0 -1",
        "call2-1": "call2 0.5 2.25 1",
    }
    write_lines(directory / "segments", parts)
    return directory


def write_archive(directory: Path, form: str, seed: int, count: int = 3) -> Path:
    """Write audio into an archive: `flac` and `wav` as ESPnet does, or `kaldi`."""
    directory.mkdir(parents=True, exist_ok=True)
    ark = str(directory.resolve() / f"{form}.ark")
    names = [f"{directory.name}-{number}" for number in range(count)]
    data = {name: noise(seed + i) for i, name in enumerate(names)}
    scp = str(directory / "wav.scp")
    if form == "kaldi":
        whole = {key: (RATE, (x * 32768).astype("int16")) for key, x in data.items()}
        kaldiio.save_ark(ark, whole, scp=scp)
    else:
        kaldiio.save_ark(
            ark,
            {key: (x, RATE) for key, x in data.items()},
            scp=scp,
            write_function="soundfile",
            write_kwargs={"format": form},
        )
    return directory


def write_features(scp: Path, names: list[str], dim: int, seed: int) -> Path:
    """Write features, 60 to 99 frames each, as Kaldi and ESPnet do."""
    rng = np.random.default_rng(seed)
    scp.parent.mkdir(parents=True, exist_ok=True)
    data = {
        name: rng.standard_normal((int(rng.integers(60, 100)), dim)).astype(np.float32)
        for name in names
    }
    ark = str(scp.resolve().with_suffix(".ark"))
    kaldiio.save_ark(ark, data, scp=str(scp), compression_method=2)
    return scp


def write_pipes(directory: Path, seed: int) -> Path:
    """Write a directory whose wav.scp has commands, one of them a pipeline."""
    plain = write_plain(directory / "files", 3, seed)
    files = sorted(str(path) for path in plain.resolve().glob("*.wav"))
    wav = {
        f"{directory.name}-0": f"{CAT} {files[0]} |",
        f"{directory.name}-1": f"{CAT} '{files[1]}' | tail -c +1 |",
        f"{directory.name}-2": f"cat {files[2]} |",
    }
    write_lines(directory / "wav.scp", wav)
    return directory
