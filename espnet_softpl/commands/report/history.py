"""Curves of a training, from the state of ESPnet's reporter in its checkpoint."""

from __future__ import annotations

import math

from espnet_softpl.training.resume.layout import Statistics

# Curve by `train/name` or `valid/name`: mini-batches trained on, the epoch's mean.
History = dict[str, list[tuple[int, float]]]


def read_history(stats: Statistics) -> History:
    """Turn statistics into curves; values that are not finite are left out."""
    history: History = {}
    for epoch in sorted(stats):
        batches = int(stats[epoch]["train"]["total_count"])
        for phase in ("train", "valid"):
            for name, value in stats[epoch].get(phase, {}).items():
                if name not in ("time", "total_count") and math.isfinite(value):
                    curve = history.setdefault(f"{phase}/{name}", [])
                    curve.append((batches, float(value)))
    return history


def seconds_of(stats: Statistics) -> float:
    """Return how long training and validation took, in seconds."""
    return sum(
        phases[phase]["time"].total_seconds()
        for phases in stats.values()
        for phase in ("train", "valid")
        if "time" in phases.get(phase, {})
    )


def best_of(history: History) -> dict[str, float]:
    """Return the best error rates and accuracy of an experiment's epochs."""
    best = {"valid/cer_ctc": min, "valid/cer": min, "valid/wer": min, "valid/acc": max}
    return {
        key: choose(value for _, value in history[key])
        for key, choose in best.items()
        if key in history
    }
