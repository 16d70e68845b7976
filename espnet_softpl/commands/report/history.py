"""Curves of a training, from the state of ESPnet's reporter in its checkpoint."""

from __future__ import annotations

import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_softpl.training.resume.layout import STATE_DIR, load_checkpoint

# Values by name, by `train` or `valid`, by epoch.
Statistics = Mapping[int, Mapping[str, Mapping[str, Any]]]

History = dict[str, list[tuple[int, float]]]

CHECKPOINTS = ("checkpoint.pth", f"{STATE_DIR}/previous_checkpoint.pth")

# What loading raises if a file is missing, half written, or no checkpoint.
UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError)
UNREADABLE += (AttributeError, pickle.UnpicklingError)


def read_statistics(directory: Path) -> Statistics:
    """Read what ESPnet's reporter knows, while the training may be writing.

    Args:
        directory: The experiment directory.

    Returns:
        The statistics of the checkpoint, or else of the one before; nothing if neither
        can be loaded.
    """
    for name in CHECKPOINTS:
        try:
            stats = load_checkpoint(directory / name)["reporter"]["stats"]
        except UNREADABLE:
            continue
        if stats:
            return stats
    return {}


def read_history(stats: Statistics) -> History:
    """Turn the statistics of ESPnet's reporter into curves.

    Returns:
        Curve by `train/name` or `valid/name`: pairs of the mini-batches trained on so
        far and the epoch's mean. Values that are not finite are left out.
    """
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
