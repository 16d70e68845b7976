"""Loops over frames, compiled for the CPU: how, and what they are given.

`graph_kernel`, `beam_kernel` and `viterbi_kernel` hold the loops, one utterance after
the other. Each is compiled by numba at its first call and kept beside the module (or in
numba's own folder of the user, or in NUMBA_CACHE_DIR), so that the next process loads
it. Several processes may compile at once: numba renames complete files into place.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


def on_cpu(tensor: Tensor) -> bool:
    """Tell whether a tensor is where the kernels are."""
    return tensor.device.type == "cpu"


def arrays(*tensors: Tensor) -> list[Any]:
    """Return arrays that share the memory of tensors, if those are dense on the CPU.

    Others are copied, from a GPU too.
    """
    return [tensor.detach().cpu().contiguous().numpy() for tensor in tensors]


def for_utterances(kernel: Callable[[slice], None], count: int) -> None:
    """Run a kernel on `count` utterances, a part of them in each of torch's threads.

    `kernel` is called with the part, and writes results of these utterances only. Of 5
    utterances two threads get 0 to 1 and 2 to 4.
    """
    threads = min(torch.get_num_threads(), count)
    if threads < 2:
        kernel(slice(count))
        return
    ends = [count * (i + 1) // threads for i in range(threads)]
    # The threads end here: a process that is forked later has none to wait for.
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(kernel, map(slice, [0, *ends], ends)))


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
