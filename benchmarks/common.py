"""What the benchmarks share: timing, peak memory, the machine, tables, JSON.

Importing this module makes `espnet_softpl` importable from a clone that was not
installed, so that it comes first among a benchmark's own imports.
"""

from __future__ import annotations

import argparse
import collections
import functools
import gc
import importlib.util
import json
import os
import platform
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import typeguard

ROOT = Path(__file__).resolve().parents[1]

if importlib.util.find_spec("espnet_softpl") is None:
    sys.path.insert(0, str(ROOT))
sys.path.append(str(ROOT / "egs2/librispeech_softpl/local"))

from join_config import read_config  # noqa: E402, F401

from espnet_softpl.core.quick_imports import lazily  # noqa: E402

# ESPnet, which benchmarks import after this module, as our commands import it.
typeguard.typechecked = lazily(typeguard.typechecked)


def median_times(
    steps: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device
) -> dict[str, float]:
    """Time several steps side by side.

    One round runs every step once, so that a slow moment of the machine falls on all
    of them; a first round, not counted, warms up.

    Args:
        steps: What to run, by name.
        repeats: Rounds, at least 1.
        device: Where the steps run; a GPU is waited for on both sides of each step.

    Returns:
        The median time of each step, in milliseconds: on the CPU processor time, which
        other work on the machine changes least and to which all threads add up.
    """

    def elapsed(step: Callable[[], Any]) -> float:
        start = now(device)
        step()
        return 1000.0 * (now(device) - start)

    arms = {name: functools.partial(elapsed, step) for name, step in steps.items()}
    times = take_turns(arms, repeats)
    return {name: statistics.median(taken) for name, taken in times.items()}


def take_turns(
    arms: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Run arms that measure themselves, in turn and in an order that rotates.

    Args:
        arms: What to run, by name; each returns what it took.
        rounds: Rounds that count, at least 1; one before them warms up.

    Returns:
        What each arm returned, by round: values at one place are of one round.
    """
    taken: dict[str, list[float]] = {name: [] for name in arms}
    names = collections.deque(arms)
    for _ in range(1 + rounds):
        for name in names:
            taken[name].append(arms[name]())
        names.rotate(1)
    return {name: values[1:] for name, values in taken.items()}


def now(device: torch.device) -> float:
    """Read the clock that claims are measured by, in seconds.

    Args:
        device: On a CPU it is the processor time of this process, which other work on
            the machine changes little; on a GPU elapsed time, after waiting for it.
    """
    if device.type == "cuda":
        _wait(device)
        return time.perf_counter()
    return time.process_time()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(step: Callable[[], Any], device: torch.device) -> int:
    """Measure how far a step raises the memory that tensors take.

    Args:
        step: What to run; what it leaves allocated counts, what was there before does
            not.
        device: Where the step's tensors are.

    Returns:
        The most memory allocated at one moment of the step, in bytes, less what was
        allocated before it. Exact: on a GPU from the allocator's own counters, on a
        CPU from the profiler's record of every allocation and release.
    """
    gc.collect()
    if device.type == "cuda":
        _wait(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        _wait(device)
        return torch.cuda.max_memory_allocated(device) - before
    # Or the profiler announces its starts and stops on the screen.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    return _highest(_allocations(profile))


def _allocations(profile: torch.profiler.profile) -> list[int]:
    """List the sizes of a CPU profile's allocations in time, releases negative."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    changes.sort(key=lambda event: event["ts"])
    return [event["args"]["Bytes"] for event in changes]


def _highest(changes: Sequence[int]) -> int:
    highest = current = 0
    for change in changes:
        current += change
        highest = max(highest, current)
    return highest


def describe_machine(device: torch.device) -> dict[str, str | int]:
    """Describe what the figures of a run depend on.

    Args:
        device: Where the run computes.

    Returns:
        Flat keys for a benchmark's JSON.
    """
    machine: dict[str, str | int] = {
        "machine.cpu": _cpu_model(),
        "machine.cores": os.cpu_count() or 1,
        "machine.threads": torch.get_num_threads(),
        "machine.device": str(device),
        "machine.python": platform.python_version(),
        "machine.torch": torch.__version__,
    }
    if device.type == "cuda":
        machine["machine.gpu"] = torch.cuda.get_device_name(device)
    return machine


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def measuring_parser(description: str) -> argparse.ArgumentParser:
    """Make a command line with what every benchmark of time takes.

    Args:
        description: What the benchmark does.

    Returns:
        A parser that knows `--json`, `--device` and `--threads`.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    return parser


def command_line(script: str, argv: Sequence[str] | None) -> str:
    """Write the command that repeats a run.

    Args:
        script: The benchmark, relative to the repository.
        argv: Its arguments, or None for those of this process.

    Returns:
        A line for a shell.
    """
    arguments = sys.argv[1:] if argv is None else argv
    return shlex.join(["python", script, *arguments])


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table for the screen.

    Args:
        header: Names of the columns.
        rows: Cells, as many per row as there are columns.

    Returns:
        Lines of aligned columns, the first one to the left and others to the right,
        except for the last.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = []
    for row in [header, *rows]:
        first, *middle = (
            cell.ljust(width) if not number else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row[:-1], widths))
        )
        lines.append("  ".join([first, *middle, row[-1]]))
    return "\n".join(lines)


def write_json(file: Path, figures: Mapping[str, Any]) -> None:
    """Write figures as one JSON object; the file is there in full or not at all.

    Args:
        file: Where to write; the folder must exist.
        figures: Flat: strings, numbers and booleans by name. Not infinite, not NaN.

    Raises:
        ValueError: A figure is infinite or NaN.
    """
    text = json.dumps(figures, indent=2, allow_nan=False) + "\n"
    temporary = file.with_name(f"{file.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, file)
