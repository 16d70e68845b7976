"""Recording conditions: what was asked for is what is heard."""

from __future__ import annotations

import numpy as np
import pytest

from espnet_softpl.commands.corpus import acoustics
from espnet_softpl.commands.corpus.acoustics import to_int16


def test_recording_has_the_asked_level_and_noise() -> None:
    conditions = acoustics.Conditions(
        room_share=0.0,
        reverberation_seconds=(0.1, 0.1),
        direct_to_room_db=(5.0, 5.0),
        tilt=(0.0, 0.0),
        snr_db=(20.0, 20.0),
        noise_color=(0.0, 0.0),
        level_db=(-26.0, -26.0),
        silence_seconds=(0.5, 0.5),
    )
    speech = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    samples = acoustics.record(speech, 16000, conditions, np.random.default_rng(0))
    signal = samples / 32767
    assert len(signal) == 8000 + 16000 + 8000
    middle, edge = np.std(signal[8000:24000]), np.std(signal[:8000])
    assert 20 * np.log10(middle) == pytest.approx(-26, abs=0.2)
    assert 20 * np.log10(middle / edge) == pytest.approx(20, abs=0.5)


def test_room_response_has_the_asked_energy_and_decay() -> None:
    response = acoustics.room_response(16000, 0.3, 5.0, np.random.default_rng(0))
    assert response[0] == 1
    tail = response[1:]
    assert 10 * np.log10(np.sum(tail**2)) == pytest.approx(-5)
    start, end = np.std(tail[:480]), np.std(tail[-480:])
    assert 20 * np.log10(start / end) == pytest.approx(54, abs=3)


def test_colored_noise_falls_with_frequency() -> None:
    noise = acoustics.colored_noise(65536, 1.0, np.random.default_rng(0))
    power = np.abs(np.fft.rfft(noise)) ** 2
    low, high = power[1000:2000].mean(), power[8000:16000].mean()
    assert np.mean(noise**2) == pytest.approx(1)
    assert 10 * np.log10(low / high) == pytest.approx(9, abs=1)


def test_to_int16_turns_down_only_what_would_clip() -> None:
    assert to_int16(np.array([0.5, -0.25])).tolist() == [16384, -8192]
    assert np.abs(to_int16(np.array([4.0, -2.0]))).tolist() == [31129, 15564]
