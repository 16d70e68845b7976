"""Files that are whole or not there, and safe to load."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_softpl.core.errors import UserError

STATE_DIR = "pl_state"  # In the experiment directory, beside ESPnet's checkpoint.


STATE_VERSION = 3  # Of what is in it; states of another version are refused.


TEACHER = "teacher.pth"  # In the experiment directory, once a run is finished.


ADVICE = (
    "Start again in a new --output_dir (--init_param takes the models that are there), "
    "or put the options and the number of processes back as they were."
)


# What ESPnet's reporter holds beside plain values: how long an epoch took, and means.
SAFE_GLOBALS = [
    datetime.timedelta,
    np._core.multiarray.scalar,
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64")),
]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load ESPnet's `checkpoint.pth` without running code from it.

    ESPnet itself loads it with `weights_only=False`; tensors, plain values and what
    the reporter holds beside them are all that its optimizers and schedulers save.

    Args:
        path: The file.

    Returns:
        `model`, `reporter`, `optimizers`, `schedulers` and `scaler`. The tensors, on
        the CPU, stay in the file until they are used.
    """
    with torch.serialization.safe_globals(SAFE_GLOBALS):
        return torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)


def check_state(state: Any, path: Path, **wanted: Any) -> None:
    """Refuse a state that belongs elsewhere.

    Args:
        state: What `load_state` returned.
        path: The file.
        **wanted: What it must say of itself, such as its epoch.

    Raises:
        UserError: It says something else, or is of another version.
    """
    wanted["version"] = STATE_VERSION
    known = state if isinstance(state, dict) else {}
    for key, value in wanted.items():
        if known.get(key) != value:
            raise UserError(
                f"cannot resume: {path} has {key} {known.get(key)!r}, this run needs "
                f"{value!r}. {ADVICE}"
            )
