"""Small corpora and recordings, and what tests of them have in common."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from espnet_softpl.commands.corpus import SETS

SCALE = "0.05"
MARKER = ".mini_corpus.json"
NAMES = ("ann", "bob", "cat", "dan", "eve", "fay")
SMALL = [
    f"--{name}-utterances={count}"
    for name, count in zip(SETS, (3, 6, 4, 4), strict=True)
]


def tree(root: Path) -> dict[str, bytes]:
    """Returns every file below a directory with its contents."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def command(out: Path, *options: str) -> list[str]:
    """Returns the command line of a small build."""
    module = "espnet_softpl.bin.make_mini_corpus"
    return [sys.executable, "-m", module, "--out", str(out), "--scale", SCALE, *options]


def digit_sound(digit: int, seconds: float, rate: int = 8000) -> np.ndarray:
    """Returns a tone whose pitch tells the digit."""
    times = np.arange(seconds * rate) / rate
    return 0.3 * np.sin(2 * np.pi * (digit + 3) * 100 * times)


def write_upstream(root: Path, takes: int = 2, rate: int = 8000) -> Path:
    """Writes recordings as the Free Spoken Digit Dataset has them."""
    (root / "recordings").mkdir(parents=True)
    for name in NAMES:
        for digit in range(10):
            for take in range(takes):
                path = root / "recordings" / f"{digit}_{name}_{take}.wav"
                sound = digit_sound(digit, 0.2 + 0.1 * take, rate)
                soundfile.write(path, sound, rate, subtype="PCM_16")
    return root


def word_sound(pitch: int, background: float = 1e-4, seed: int = 0) -> np.ndarray:
    """Returns 0.8 s of noise at 16 kHz, with a tone from 0.3 to 0.5 s."""
    samples = np.random.default_rng(seed).standard_normal(12800) * background
    samples[4800:8000] += digit_sound(pitch - 3, 0.2, 16000)
    return samples


def write_words(root: Path, words: Sequence[str], names: Sequence[str]) -> Path:
    """Writes recordings of `word_sound`, a folder a word, with files of these names.

    The first word has 300 Hz, the next 400 Hz.
    """
    for index, word in enumerate(words):
        (root / word).mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(names):
            sound = word_sound(index + 3, seed=100 * index + number)
            soundfile.write(root / word / name, sound, 16000)
    return root
