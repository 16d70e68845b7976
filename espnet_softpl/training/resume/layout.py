"""What lies in an experiment directory beside ESPnet's files, and how it is read."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_softpl.core.files import load_state

STATE_DIR = "pl_state"  # Beside ESPnet's checkpoint; the snapshots are in it.
STATE_VERSION = 4  # Of the snapshots; those of another version are refused.
CHECKPOINT = "checkpoint.pth"  # ESPnet's, of the latest finished epoch.
TEACHER = "teacher.pth"  # Once a run is finished.

# What ESPnet's reporter holds beside plain values: how long an epoch took, and means.
SAFE_GLOBALS = [
    datetime.timedelta,
    np._core.multiarray.scalar,
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64")),
]

# Values by name, by `train` or `valid`, by epoch.
Statistics = Mapping[int, Mapping[str, Mapping[str, Any]]]


def has_states(output_dir: Path) -> bool:
    """Tell whether a run has saved anything that it could go on from."""
    return any((output_dir / STATE_DIR).glob("*epoch.*"))


# What loading raises if a file is missing, half written, or no checkpoint.
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load ESPnet's `checkpoint.pth` without running code from it (ESPnet would).

    Returns:
        `model`, `reporter`, `optimizers`, `schedulers` and `scaler`. The tensors, on
        the CPU, stay in the file until they are used; see `load_state`.
    """
    with torch.serialization.safe_globals(SAFE_GLOBALS):
        return load_state(path, mmap=True)


def read_statistics(directory: Path) -> Statistics:
    """Read what ESPnet's reporter knows; nothing if no checkpoint can be loaded."""
    try:
        return load_checkpoint(directory / CHECKPOINT)["reporter"]["stats"]
    except UNREADABLE:
        return {}
