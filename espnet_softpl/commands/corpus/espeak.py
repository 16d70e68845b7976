"""Speech from the eSpeak NG library of the PyPI package `espeakng-loader`.

eSpeak NG is licensed under GPL-3: the package is an extra. What it returns depends on
every earlier call in the process, even after `espeak_ng_SetRandSeed`: use one process
per sequence of calls that must be reproducible.
"""

from __future__ import annotations

import ctypes
import importlib.util
import tempfile
from pathlib import Path

import numpy as np

from espnet_softpl.commands.corpus.build import CorpusError

SYNTHESIS_RATE = 22050  # Samples per second of what eSpeak NG returns.
# Numbers of espeak-ng/speak_lib.h.
_OUTPUT_SYNCHRONOUS, _INITIALIZE_DONT_EXIT = 2, 0x8000
_RATE, _VOLUME, _PITCH, _RANGE = 1, 2, 3, 4
_POSITION_CHARACTER, _CHARS_UTF8 = 1, 1
# eSpeak NG keeps the path of its data in a buffer of 160 bytes and ignores a longer
# one; file names inside the data directory have to fit as well.
_MAX_DATA_PATH = 100
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


def require() -> None:
    """Raise a CorpusError if the synthesizer's package is not installed."""
    if importlib.util.find_spec("espeakng_loader") is None:
        raise CorpusError(
            "the Python package espeakng-loader, which brings the eSpeak NG speech "
            "synthesizer (GPL-3), is not installed: "
            "pip install 'espnet_softpl[mini]', or pip install espeakng-loader"
        )


class Synthesizer:
    """eSpeak NG with one voice at a time; a context manager."""

    def __init__(self) -> None:
        require()
        import espeakng_loader

        try:
            self._library = ctypes.CDLL(str(espeakng_loader.get_library_path()))
        except OSError as error:
            raise CorpusError(f"cannot load the eSpeak NG library: {error}") from error
        self._link: tempfile.TemporaryDirectory | None = None
        data = Path(espeakng_loader.get_data_path())
        if len(str(data).encode()) > _MAX_DATA_PATH:
            self._link = tempfile.TemporaryDirectory(prefix="espeak")
            link = Path(self._link.name) / data.name
            link.symlink_to(data, target_is_directory=True)
            data = link
        rate = self._library.espeak_Initialize(
            _OUTPUT_SYNCHRONOUS, 0, str(data.parent).encode(), _INITIALIZE_DONT_EXIT
        )
        if rate != SYNTHESIS_RATE:
            raise CorpusError(
                f"eSpeak NG did not start with its data in {data}: it returned {rate}, "
                f"not the sampling rate {SYNTHESIS_RATE}"
            )
        self._chunks: list[np.ndarray] = []
        # Kept as an attribute: the library calls it long after this method is done.
        self._callback = _CALLBACK(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)

    def __enter__(self) -> Synthesizer:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._link is not None:
            self._link.cleanup()

    def set_voice(self, voice: str, rate: int, pitch: int, pitch_range: int) -> None:
        """Choose who speaks: a language with an optional variant, such as `en-us+f3`.

        `rate` is in words per minute, 80 to 450; `pitch` 0 to 99, 50 the voice's own;
        `pitch_range` the same, 0 monotone.
        """
        self._call(f"voice {voice}", "espeak_SetVoiceByName", voice.encode())
        # Half volume: some variants would clip at the default of 100.
        values = {_RATE: rate, _VOLUME: 50, _PITCH: pitch, _RANGE: pitch_range}
        for parameter, value in values.items():
            what = f"parameter {parameter} = {value} of voice {voice}"
            self._call(what, "espeak_SetParameter", parameter, value, 0)

    def speak(self, text: str, seed: int) -> np.ndarray:
        """Say a sentence; the seed, 1 to 2**31 - 1, is of breath and whisper noise.

        Returns (num_samples,), float64 in [-1, 1], at SYNTHESIS_RATE, never silence.
        """
        self._chunks.clear()
        # A long may be four or eight bytes wide.
        number = ctypes.c_long(seed)
        self._call(f"random seed {seed}", "espeak_ng_SetRandSeed", number)
        data = text.encode() + b"\0"
        self._call(
            *(f"text {text!r}", "espeak_Synth", data, ctypes.c_size_t(len(data))),
            *(0, _POSITION_CHARACTER, 0, _CHARS_UTF8, None, None),
        )
        samples = np.concatenate(self._chunks or [np.zeros(1, np.int16)]) / 32768.0
        if not samples.any():
            raise CorpusError(f"eSpeak NG returned silence for {text!r}")
        return samples

    def _collect(self, samples: object, count: int, events: object) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def _call(self, what: str, function: str, *arguments: object) -> None:
        if code := getattr(self._library, function)(*arguments):
            raise CorpusError(f"eSpeak NG refused {what} (code {code})")
