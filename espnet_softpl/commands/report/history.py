"""What a training has reported so far: from its checkpoint, or from its log."""

from __future__ import annotations

import datetime
import math
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_softpl.training.resume.layout import STATE_DIR, load_checkpoint

Statistics = Mapping[int, Mapping[str, Mapping[str, Any]]]


History = dict[str, list[tuple[int, float]]]


CHECKPOINTS = ("checkpoint.pth", f"{STATE_DIR}/previous_checkpoint.pth")


# What loading raises where a file is missing, half written, or no checkpoint.
UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError)


UNREADABLE += (AttributeError, pickle.UnpicklingError)


RESERVED = ("time", "total_count")


# "[host] 2026-01-31 12:00:00,000 (trainer:394) INFO: 2epoch results: [train] a=1, ..."
RESULTS = re.compile(r" INFO: (\d+)epoch results: (\[train\] .*)")


PROGRESS = re.compile(r" INFO: (\d+)epoch:train:\d+-(\d+)batch: ")


FINISHED = "The training was finished at"


def read_history(stats: Statistics) -> History:
    """Turn the state of ESPnet's reporter into curves.

    Args:
        stats: Statistics by name, by `train` or `valid`, by epoch.

    Returns:
        Curve by `train/name` or `valid/name`: pairs of the mini-batches trained on so
        far and the epoch's mean. Values that are not finite are left out.
    """
    history: History = {}
    for epoch in sorted(stats):
        batches = int(stats[epoch]["train"]["total_count"])
        for phase in ("train", "valid"):
            for name, value in stats[epoch].get(phase, {}).items():
                if name in RESERVED or not math.isfinite(value):
                    continue
                history.setdefault(f"{phase}/{name}", []).append(
                    (batches, float(value))
                )
    return history


def seconds_of(stats: Statistics) -> float:
    """Return how long training and validation took, in seconds.

    Args:
        stats: As for `read_history`.
    """
    return sum(
        phases[phase]["time"].total_seconds()
        for phases in stats.values()
        for phase in ("train", "valid")
        if "time" in phases.get(phase, {})
    )


def read_statistics(directory: Path) -> tuple[Statistics, str]:
    """Read what ESPnet's reporter knows, while the training may be writing.

    Args:
        directory: The experiment directory.

    Returns:
        Statistics by name, by phase, by epoch, and where they are from: of the
        checkpoint, the one in reserve, and the logs, the first that is whole. Nothing,
        and "", where no epoch is finished.
    """
    for name in CHECKPOINTS:
        try:
            stats = load_checkpoint(directory / name)["reporter"]["stats"]
        except UNREADABLE:
            continue
        if stats:
            return stats, name
    logs = find_logs(directory)
    stats = parse_results(text for log in logs for text in read_lines(log))
    return stats, logs[-1].name if stats else ""


def find_logs(directory: Path) -> list[Path]:
    """Return the training's logs, the oldest first.

    Args:
        directory: The experiment directory.
    """
    dated = [(modified(log), log) for log in directory.glob("train*.log")]
    return [log for date, log in sorted(dated) if date > 0.0]


def modified(path: Path) -> float:
    """Return when a file was last written, in seconds; 0 where it is not there.

    Args:
        path: The file.
    """
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file, which may hold any bytes.

    Args:
        path: The file; one that has just been renamed or removed has no lines.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return []


def parse_results(lines: Iterable[str]) -> dict[int, dict[str, dict[str, Any]]]:
    """Read the ends of epochs from a log, where numbers are rounded.

    Args:
        lines: Lines of one log or of several, the oldest first; of an epoch that was
            trained twice, the last counts.

    Returns:
        Statistics as in ESPnet's reporter.
    """
    stats: dict[int, dict[str, dict[str, Any]]] = {}
    for line in lines:
        found = RESULTS.search(line)
        if found is None:
            continue
        phases = {
            phase: _values(text)
            for phase, text in re.findall(r"\[(\w+)\] (.*?)(?=, \[|$)", found[2])
        }
        if "total_count" in phases.get("train", {}):
            stats[int(found[1])] = phases
    return stats


def _values(text: str) -> dict[str, Any]:
    """Read the numbers of one phase, "a=0.1, time=1 hour and 2 minutes, ..."."""
    values: dict[str, Any] = {
        name: float(number)
        for name, number in re.findall(r"(\w+)=([-+.\deinfa]+)(?=,|$)", text)
    }
    spent = re.search(r"\btime=(.*?), total_count", text)
    if spent is not None:
        units = {"day": 86400, "hour": 3600, "minute": 60, "second": 1}
        parts = re.findall(r"([\d.]+) (day|hour|minute|second)", spent[1])
        seconds = sum(float(number) * units[unit] for number, unit in parts)
        values["time"] = datetime.timedelta(seconds=seconds)
    return values


def progress_of(lines: Sequence[str]) -> tuple[int, int] | None:
    """Return the epoch and its mini-batches so far, as the log tells.

    Args:
        lines: Lines of a log.

    Returns:
        Epoch and mini-batches of the last report, None where there is none.
    """
    for line in reversed(lines):
        found = PROGRESS.search(line)
        if found is not None:
            return int(found[1]), int(found[2])
    return None
