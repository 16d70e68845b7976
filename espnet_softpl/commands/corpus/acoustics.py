"""Recording conditions: a room, a microphone, noise and a level, from a seed."""

from __future__ import annotations

import numpy as np
from scipy.signal import fftconvolve, lfilter

from espnet_softpl.commands.corpus.conditions import Conditions
from espnet_softpl.commands.corpus.librispeech import to_int16


def record(
    speech: np.ndarray,
    sample_rate: int,
    conditions: Conditions,
    generator: np.random.Generator,
) -> np.ndarray:
    """Plays speech in a room and records it with noise.

    Args:
        speech: Clean speech of shape (num_samples,), not silent.
        sample_rate: Samples per second.
        conditions: Where the conditions are drawn from.
        generator: What draws them.

    Returns:
        The recording, 16 bit integers of shape (num_samples + silences,), unclipped.
    """
    before, after = generator.uniform(*conditions.silence_seconds, size=2)
    in_room = generator.random() < conditions.room_share
    response = room_response(
        sample_rate,
        generator.uniform(*conditions.reverberation_seconds),
        generator.uniform(*conditions.direct_to_room_db),
        generator,
    )
    tilt = generator.uniform(*conditions.tilt)
    snr_db = generator.uniform(*conditions.snr_db)
    color = generator.uniform(*conditions.noise_color)
    level = 10 ** (generator.uniform(*conditions.level_db) / 20)

    silences = (int(before * sample_rate), int(after * sample_rate))
    signal = np.pad(speech, silences)
    if in_room:
        signal = fftconvolve(signal, response)[: len(signal)]
    signal = lfilter([1.0, -tilt], [1.0], signal)
    # The silences must not count as speech in the signal-to-noise ratio.
    active = signal[silences[0] : silences[0] + len(speech)]
    signal = signal * (level / np.sqrt(np.mean(active**2)))
    noise = colored_noise(len(signal), color, generator)
    return to_int16(signal + noise * level * 10 ** (-snr_db / 20))


def room_response(
    sample_rate: int,
    reverberation_seconds: float,
    direct_to_room_db: float,
    generator: np.random.Generator,
) -> np.ndarray:
    """Returns a room's impulse response: the direct sound, then decaying noise.

    Args:
        sample_rate: Samples per second.
        reverberation_seconds: Time in which the noise falls by 60 dB, > 0.
        direct_to_room_db: Energy of the direct sound over the noise's, in dB.
        generator: What draws the noise.

    Returns:
        The response of shape (num_samples,); its first sample is 1.
    """
    length = max(2, int(reverberation_seconds * sample_rate))
    decay = 10 ** (-3.0 * np.arange(length) / length)
    response = generator.standard_normal(length) * decay
    response[0] = 0.0
    response *= 10 ** (-direct_to_room_db / 20) / np.sqrt(np.sum(response**2))
    response[0] = 1.0
    return response


def colored_noise(
    length: int, color: float, generator: np.random.Generator
) -> np.ndarray:
    """Returns noise whose power falls as 1 / frequency**color.

    Args:
        length: Number of samples, at least 2.
        color: 0 is white, 1 pink, 2 brown.
        generator: What draws the noise.

    Returns:
        Noise of shape (length,) with a root mean square of 1.
    """
    spectrum = np.fft.rfft(generator.standard_normal(length))
    frequency = np.arange(len(spectrum))
    frequency[0] = 1
    noise = np.fft.irfft(spectrum * frequency ** (-color / 2), length)
    return noise / np.sqrt(np.mean(noise**2))
