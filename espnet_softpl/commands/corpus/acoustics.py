"""Recording conditions: a room, a microphone, noise and a level, from a seed.

scipy is imported when audio is made: it takes a second, and planning needs none of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

Range = tuple[float, float]


@dataclass(frozen=True)
class Conditions:
    """Ranges (low, high) that one utterance's conditions are drawn from, evenly."""

    room_share: float  # Share of utterances recorded in a room, 0 to 1.
    reverberation_seconds: Range  # In which the room's sound falls by 60 dB, > 0.
    direct_to_room_db: Range  # Energy of the direct sound over the room's.
    tilt: Range  # Coefficient a of the microphone y[n] = x[n] - a x[n-1], -1 to 1.
    snr_db: Range  # Energy of the speech over that of the noise.
    noise_color: Range  # Exponent of the noise's falling spectrum: 0 white, 1 pink.
    level_db: Range  # Level of the speech, root mean square below full scale.
    silence_seconds: Range  # Before and after the speech, >= 0.


def record(
    speech: np.ndarray,
    sample_rate: int,
    conditions: Conditions,
    draw: np.random.Generator,
) -> np.ndarray:
    """Play speech of shape (num_samples,), not silent, in a room with noise.

    Returns the recording, int16 of shape (num_samples + silences,), unclipped.
    """
    from scipy.signal import fftconvolve, lfilter

    before, after = draw.uniform(*conditions.silence_seconds, size=2)
    in_room = draw.random() < conditions.room_share
    reverberation = draw.uniform(*conditions.reverberation_seconds)
    direct_to_room = draw.uniform(*conditions.direct_to_room_db)
    response = room_response(sample_rate, reverberation, direct_to_room, draw)
    tilt = draw.uniform(*conditions.tilt)
    snr_db = draw.uniform(*conditions.snr_db)
    color = draw.uniform(*conditions.noise_color)
    level = 10 ** (draw.uniform(*conditions.level_db) / 20)

    silences = (int(before * sample_rate), int(after * sample_rate))
    signal = np.pad(speech, silences)
    if in_room:
        signal = fftconvolve(signal, response)[: len(signal)]
    signal = lfilter([1.0, -tilt], [1.0], signal)
    # The silences must not count as speech in the signal-to-noise ratio.
    active = signal[silences[0] : silences[0] + len(speech)]
    signal = signal * (level / np.sqrt(np.mean(active**2)))
    noise = colored_noise(len(signal), color, draw)
    return to_int16(signal + noise * level * 10 ** (-snr_db / 20))


def room_response(
    sample_rate: int,
    seconds: float,
    direct_to_room_db: float,
    draw: np.random.Generator,
) -> np.ndarray:
    """Return a room's impulse response: the direct sound, 1, then decaying noise.

    In `seconds` (> 0) the noise falls by 60 dB; `direct_to_room_db` is the direct
    sound's energy over the noise's.
    """
    length = max(2, int(seconds * sample_rate))
    decay = 10 ** (-3.0 * np.arange(length) / length)
    response = draw.standard_normal(length) * decay
    response[0] = 0.0
    response *= 10 ** (-direct_to_room_db / 20) / np.sqrt(np.sum(response**2))
    response[0] = 1.0
    return response


def colored_noise(length: int, color: float, draw: np.random.Generator) -> np.ndarray:
    """Return noise, shape (length,), whose power falls as 1 / frequency**color.

    Its root mean square is 1; a color of 0 is white, 1 pink, 2 brown.
    """
    spectrum = np.fft.rfft(draw.standard_normal(length))
    frequency = np.arange(len(spectrum))
    frequency[0] = 1
    noise = np.fft.irfft(spectrum * frequency ** (-color / 2), length)
    return noise / np.sqrt(np.mean(noise**2))


def resample(signal: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Return a signal of shape (num_samples,) at another sampling rate, in Hz."""
    from scipy.signal import resample_poly

    ratio = Fraction(new_rate, rate)
    return resample_poly(signal, ratio.numerator, ratio.denominator)


def to_int16(signal: np.ndarray) -> np.ndarray:
    """Return 16 bit integers of a signal in [-1, 1], turned down if it is louder."""
    peak = np.abs(signal).max()
    signal = signal * (0.95 / max(peak, 0.95))
    return np.round(signal * 32767).astype(np.int16)
