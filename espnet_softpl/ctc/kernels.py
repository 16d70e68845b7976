"""Compiled loops over frames: when they are used, and how they are compiled.

`graph_kernel`, `beam_kernel` and `viterbi_kernel` hold the loops. Each is compiled by
numba at its first call and kept beside the module (or in numba's own folder of the
user, or in NUMBA_CACHE_DIR), so that the next process loads it. Several processes may
compile at once: numba renames complete files into place.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor


def usable(log_probs: Tensor) -> bool:
    """Whether the kernels take these frames, (B, T, V): on the CPU, in float32 or 64.

    Anything else is computed by the torch code, which the tests compare with.
    """
    types = (torch.float32, torch.float64)
    return log_probs.device.type == "cpu" and log_probs.dtype in types


def compiled(function: Callable) -> Callable:
    """Compile a function of numpy arrays and numbers at its first call.

    It runs without the GIL. A kernel and what it calls stand in one file: numba
    compiles a kept function again if its own file changes, and looks at no other.
    """
    import numba  # Half a second, which only those who compute pay.

    options = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(function, cache=True, **options)
    except RuntimeError as error:  # No folder can be written to.
        warnings.warn(f"every process compiles again: {error}", stacklevel=2)
        return numba.njit(function, **options)
