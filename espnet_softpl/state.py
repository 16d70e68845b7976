"""Files that are whole or not there, and safe to load."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

STATE_DIR = "pl_state"  # In the experiment directory, beside ESPnet's checkpoint.


def save_atomically(state: Any, path: Path) -> None:
    """Save with torch under a temporary name, then rename.

    Args:
        state: What to save.
        path: Where; its directory is made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    torch.save(state, temporary)
    os.replace(temporary, path)


def load_state(path: Path) -> Any:
    """Load tensors and plain values, nothing that could run code.

    Args:
        path: What `save_atomically` wrote.

    Returns:
        The state, on the CPU: what takes it moves it to its own device.
    """
    return torch.load(path, map_location="cpu", weights_only=True)


def rank_and_world() -> tuple[int, int]:
    """Return this process's rank and the number of processes."""
    if not torch.distributed.is_initialized():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()
