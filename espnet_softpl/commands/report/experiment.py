"""What an experiment directory tells, whatever state it is in."""

from __future__ import annotations

import dataclasses
import datetime
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from espnet_softpl.commands.report.decodings import Decoding, find_decodings, resolve
from espnet_softpl.commands.report.history import (
    FINISHED,
    UNREADABLE,
    History,
    find_logs,
    modified,
    progress_of,
    read_history,
    read_lines,
    read_statistics,
    seconds_of,
)
from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import load_state
from espnet_softpl.data.tables import read_scp
from espnet_softpl.monitors import guard as monitors_guard
from espnet_softpl.monitors.guard import MONITORS, Guard
from espnet_softpl.monitors.samples import SAMPLES_DIR
from espnet_softpl.training.guarding import REPORT_DIR
from espnet_softpl.training.resume.layout import STATE_DIR

SIGNS_OF_LIFE = ("config.yaml", "checkpoint.pth", "train.log")


SAMPLE_KEYS = {"step", "made", "utterance", "label", "student", "weight", "dropped_by"}


@dataclasses.dataclass
class Level:
    """A monitor as the guard sees it.

    Attributes:
        seed: The seed model's level; NaN where it is not yet known.
        now: The present level.
        low: Least legal level, -inf for none.
        high: Greatest legal level, inf for none.
    """

    seed: float
    now: float
    low: float
    high: float

    @property
    def beyond(self) -> bool:
        """Whether the level is beyond its limits now."""
        return not self.low <= self.now <= self.high and not math.isnan(self.now)


@dataclasses.dataclass
class Alarm:
    """A report that the guard wrote.

    Attributes:
        step: Mini-batches so far.
        text: The report.
    """

    step: int
    text: str


@dataclasses.dataclass
class Experiment:
    """One training.

    Attributes:
        name: Its name on the page.
        directory: Where it is.
        config: ESPnet's `config.yaml`, empty where it is not there yet.
        history: Curves; see `history.read_history`.
        epochs: Finished epochs.
        batches: Mini-batches in them.
        seconds: Time of training and validation.
        source: File that the curves are from, "" for none.
        status: What it is doing, in words.
        levels: The guard's view, by monitor; empty where there is none yet.
        alarms: The guard's reports, the oldest first.
        samples: What `samples.SampleRecorder` wrote, by step; with the epoch.
        truths: True transcripts of unlabeled utterances, where known.
        decodings: What was decoded.
        notes: What is missing or was left out.
    """

    name: str
    directory: Path
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: History = dataclasses.field(default_factory=dict)
    epochs: int = 0
    batches: int = 0
    seconds: float = 0.0
    source: str = ""
    status: str = ""
    levels: dict[str, Level] = dataclasses.field(default_factory=dict)
    alarms: list[Alarm] = dataclasses.field(default_factory=list)
    samples: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    truths: Mapping[str, str] = dataclasses.field(default_factory=dict)
    decodings: list[Decoding] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def pseudo_labels(self) -> bool:
        """Whether it learns from pseudo-labels."""
        return self.config.get("pl_criterion") is not None or any(
            key.startswith("train/pl_") for key in self.history
        )

    def conf(self, key: str) -> dict[str, Any]:
        """Return nested settings, nothing where there are none.

        Args:
            key: Such as `encoder_conf`.
        """
        found = self.config.get(key)
        return found if isinstance(found, dict) else {}

    def first_and_last(self, key: str) -> tuple[float, float] | None:
        """Return a statistic in its first and in its last epoch, None if unknown.

        Args:
            key: Of `history`.
        """
        values = self.history.get(key)
        return (values[0][1], values[-1][1]) if values else None


def names_of(directories: Sequence[Path]) -> list[str]:
    """Return a short name for each directory: as many last parts as tell them apart.

    Args:
        directories: Resolved paths.

    Returns:
        As many names.

    Raises:
        UserError: A directory is there twice.
    """
    if len(set(directories)) < len(directories):
        twice = next(d for d in directories if directories.count(d) > 1)
        raise UserError(f"{twice} is named twice")
    count = 1
    while True:
        names = ["/".join(path.parts[-count:]) for path in directories]
        if len(set(names)) == len(names):
            return names
        count += 1


def check_experiment(directory: Path) -> None:
    """Refuse what is no experiment directory.

    Args:
        directory: The path.

    Raises:
        UserError: It does not exist, or holds nothing that ESPnet writes.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is no directory")
    if not any((directory / name).exists() for name in SIGNS_OF_LIFE):
        raise UserError(
            f"{directory} is no experiment: it has none of "
            f"{', '.join(SIGNS_OF_LIFE)}, which ESPnet's training writes. Name the "
            f"--output_dir of a training"
        )


def read_experiment(
    directory: Path, name: str, references: Mapping[str, Path]
) -> Experiment:
    """Read an experiment; what cannot be read becomes a note.

    Args:
        directory: Its directory.
        name: Its name on the page.
        references: File of true transcripts by set, where the user named some.

    Raises:
        UserError: It is no experiment, or a file in `references` is none.
    """
    check_experiment(directory)
    run = Experiment(name, directory)
    _read_config(run)
    stats, run.source = read_statistics(directory)
    run.history, run.seconds = read_history(stats), seconds_of(stats)
    run.epochs = max(stats, default=0)
    if stats:
        run.batches = int(stats[run.epochs]["train"]["total_count"])
    else:
        run.notes.append("No epoch is finished yet, so there are no curves.")
    if run.source.endswith(".log"):
        run.notes.append(
            f"No checkpoint can be read; the curves are from {run.source}, where "
            f"numbers are rounded."
        )
    _read_status(run)
    if run.pseudo_labels:
        _read_guard(run)
        _read_alarms(run)
        _read_samples(run)
    run.decodings, notes = find_decodings(directory, run.config, references)
    run.notes += notes
    return run


def _read_config(run: Experiment) -> None:
    path = run.directory / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        config = None
    if isinstance(config, dict):
        run.config = config
    else:
        run.notes.append(
            "config.yaml is missing or not complete: ESPnet writes it when training "
            "begins."
        )


def _read_status(run: Experiment) -> None:
    """Say what the training is doing, as far as files tell."""
    logs = find_logs(run.directory)
    lines = read_lines(logs[-1]) if logs else []
    if any(FINISHED in line for line in lines[-20:]):
        run.status = "finished"
        return
    most = run.config.get("max_epoch")
    if isinstance(most, int) and run.epochs >= most:
        run.status = f"all {most} epochs done"
        return
    files = [*logs, *(run.directory / name for name in SIGNS_OF_LIFE)]
    latest = max(modified(path) for path in files)
    when = datetime.datetime.fromtimestamp(latest).strftime("%Y-%m-%d %H:%M:%S")
    run.status = f"running or stopped, last sign of life {when}"
    progress = progress_of(lines)
    if progress is not None and progress[0] > run.epochs:
        run.status += f"; epoch {progress[0]}, mini-batch {progress[1]}"


def _read_guard(run: Experiment) -> None:
    """Read the guard's levels and limits from the side state of the last epoch."""
    name = str(run.config.get("pl_guard", "warn"))
    try:
        guard = monitors_guard.build(name, **run.conf("pl_guard_conf"))
    except (ValueError, TypeError) as error:
        run.notes.append(f"The guard's settings are not legal here: {error}")
        return
    if guard is None:
        run.notes.append("pl_guard is none: there are no limits to show.")
        return
    for path in _side_states(run.directory):
        try:
            guard.load_state_dict(load_state(path, mmap=True)["guard"])
        except UNREADABLE:
            continue
        run.levels = {monitor: _level(guard, monitor) for monitor in MONITORS}
        return
    run.notes.append("The guard's state is not there yet: it is saved with an epoch.")


def _side_states(directory: Path) -> list[Path]:
    """Return the first process's side states, the newest first."""
    found = directory.glob(f"{STATE_DIR}/*epoch.rank0.pth")
    numbered = [p for p in found if p.name.partition("epoch")[0].isdigit()]
    return sorted(numbered, key=lambda p: -int(p.name.partition("epoch")[0]))


def _level(guard: Guard, monitor: str) -> Level:
    low, high = guard.bounds(monitor)
    return Level(guard.reference(monitor), guard.level(monitor), low, high)


def _read_alarms(run: Experiment) -> None:
    for path in (run.directory / REPORT_DIR).glob("step*/report.txt"):
        step = path.parent.name.removeprefix("step")
        if step.isdigit():
            run.alarms.append(Alarm(int(step), "\n".join(read_lines(path))))
    run.alarms.sort(key=lambda alarm: alarm.step)


def _read_samples(run: Experiment) -> None:
    """Read the recorded labels of every process, and the true transcripts."""
    torn = 0
    for path in sorted((run.directory / SAMPLES_DIR).glob("*epoch.rank*.jsonl")):
        epoch = path.name.partition("epoch")[0]
        for line in filter(str.strip, read_lines(path)):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict) and SAMPLE_KEYS <= row.keys():
                run.samples.append({**row, "epoch": epoch})
            else:
                torn += 1
    if torn:
        run.notes.append(f"{torn} lines of {SAMPLES_DIR} cannot be read.")
    if not run.samples:
        run.notes.append(
            f"No labels of single utterances: {SAMPLES_DIR} is written at the end of "
            f"an epoch, with pl_samples above 0."
        )
    run.samples.sort(key=lambda row: (row["step"], row["utterance"]))
    oracle = run.config.get("unlabeled_oracle_text")
    if not oracle:
        return
    path = resolve(str(oracle), run.directory)
    try:
        run.truths = read_scp(path, empty=True) if path else {}
    except (OSError, ValueError):
        path = None
    if path is None:
        run.notes.append(f"unlabeled_oracle_text {oracle} cannot be read from here.")
