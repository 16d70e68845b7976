"""The ranges that recording conditions are drawn from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Conditions:
    """Ranges (low, high) that one utterance's conditions are drawn from, evenly.

    Attributes:
        room_share: Share of utterances recorded in a room, 0 to 1.
        reverberation_seconds: Time in which the room's sound falls by 60 dB, > 0.
        direct_to_room_db: Energy of the direct sound over the room's, in dB.
        tilt: Coefficient a of the microphone y[n] = x[n] - a x[n-1], -1 to 1.
        snr_db: Energy of the speech over that of the noise, in dB.
        noise_color: Exponent of the noise's falling spectrum: 0 white, 1 pink.
        level_db: Level of the speech, root mean square below full scale, in dB.
        silence_seconds: Silence before and after the speech, >= 0.
    """

    room_share: float
    reverberation_seconds: tuple[float, float]
    direct_to_room_db: tuple[float, float]
    tilt: tuple[float, float]
    snr_db: tuple[float, float]
    noise_color: tuple[float, float]
    level_db: tuple[float, float]
    silence_seconds: tuple[float, float]
