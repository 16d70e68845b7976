"""What kernels are given, and that they are compiled once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from espnet_softpl.ctc.kernels import arrays, compiled, for_utterances, on_cpu
from tests import ROOT


def test_dense_tensors_of_the_cpu_share_their_memory() -> None:
    ones, columns = torch.ones(2, 3), torch.ones(2, 3).t()
    shared, copied = arrays(ones, columns)
    shared[0, 0] = copied[0, 0] = 5.0
    assert ones[0, 0] == 5.0 and columns[0, 0] == 1.0 and copied.shape == (3, 2)
    assert on_cpu(ones) and not on_cpu(torch.ones(1, device="meta"))


@pytest.mark.parametrize("threads, count", [(1, 5), (2, 5), (3, 2), (2, 0)])
def test_threads_share_the_utterances(monkeypatch, threads: int, count: int) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    done, parts = [0] * count, []

    def kernel(part: slice) -> None:
        parts.append(part)
        done[part] = [number + 1 for number in done[part]]

    for_utterances(kernel, count)
    assert done == [1] * count
    assert len(parts) == max(min(threads, count), 1)


def test_an_error_of_a_thread_is_raised(monkeypatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)

    def kernel(part: slice) -> None:
        if part.start:
            raise ValueError("the second half")

    with pytest.raises(ValueError, match="the second half"):
        for_utterances(kernel, 4)


def test_without_a_folder_to_keep_it_a_function_is_compiled_all_the_same() -> None:
    function = eval("lambda number: number + 1")  # Of no file.
    with pytest.warns(UserWarning, match="every process compiles again"):
        assert compiled(function)(2) == 3


@pytest.mark.slow
def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    script = """
import torch
from espnet_softpl.ctc import viterbi_kernel
from espnet_softpl.ctc.viterbi import viterbi
ones = torch.ones(1, dtype=torch.long)
viterbi(torch.zeros(1, 2, 3), 2 * ones, ones.unsqueeze(1), ones)
stats = viterbi_kernel.best_paths.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    seen = [
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for _ in range(2)
    ]
    assert seen == [["0", "1"], ["1", "0"]]
