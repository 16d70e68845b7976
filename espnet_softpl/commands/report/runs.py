"""What the directory of a training tells, whatever state the training is in."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from espnet_softpl.commands.experiment import Experiment, read_config
from espnet_softpl.commands.report import decodings
from espnet_softpl.commands.report.samples import Recording, find_recordings
from espnet_softpl.commands.scoring import Scores
from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import load_state
from espnet_softpl.data.audio import READ_ERRORS
from espnet_softpl.data.tables import read_scp
from espnet_softpl.monitors import guard as monitors_guard
from espnet_softpl.monitors.samples import SAMPLES_DIR
from espnet_softpl.training.guarding import REPORT_DIR
from espnet_softpl.training.resume import layout

# Curve by `train/name` or `valid/name`: mini-batches trained on, the epoch's mean.
History = dict[str, list[tuple[int, float]]]

SIGNS_OF_LIFE = ("config.yaml", layout.CHECKPOINT, "train.log")
# Where a name tells the random seed: seed1/hard_ctc, hard_ctc_seed1, hard-seed-1.
SEED = re.compile(r"(?:^|(?<=[/_.-]))seed[_-]?(\d+)(?=$|[/_.-])")
SAMPLE_KEYS = ("step", "made", "utterance", "label", "student", "weight", "dropped_by")
# What the best of an experiment's epochs is.
BEST = {"valid/cer_ctc": min, "valid/cer": min, "valid/wer": min, "valid/acc": max}
# "[host] 2026-01-31 12:00:00,000 (trainer:811) INFO: 1epoch:train:1-50batch: loss=9.0"
PROGRESS = re.compile(r" INFO: (\d+)epoch:train:\d+-(\d+)batch: ")


class Alarm(NamedTuple):
    """A report that the guard wrote after `step` mini-batches."""

    step: int
    text: str


@dataclass
class Run:
    """One training."""

    name: str  # On the page.
    experiment: Experiment  # Its configuration is empty if it is not there yet.
    history: History = field(default_factory=dict)
    epochs: int = 0  # Finished ones.
    batches: int = 0  # Mini-batches in them.
    updates: int = 0  # Steps of the optimizer.
    duration: datetime.timedelta = datetime.timedelta()  # Training and validation.
    status: str = ""  # What it is doing, in words.
    start: int = 0  # Mini-batches before pseudo-labels begin.
    # The base model's, by key of the history.
    levels: dict[str, float] = field(default_factory=dict)
    guard: monitors_guard.Guard | None = None  # As it was saved last.
    alarms: list[Alarm] = field(default_factory=list)  # The oldest first.
    # What `samples.SampleRecorder` wrote, by step; with the epoch.
    samples: list[dict[str, Any]] = field(default_factory=list)
    # True transcripts of unlabeled utterances, if known.
    truths: Mapping[str, str] = field(default_factory=dict)
    # Audio of the utterances in `samples`.
    recordings: Mapping[str, Recording] = field(default_factory=dict)
    decodings: decodings.Decodings = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # What is missing or left out.

    @property
    def config(self) -> dict[str, Any]:
        """ESPnet's `config.yaml`."""
        return self.experiment.config

    @property
    def pseudo_labels(self) -> bool:
        """Whether it learns from pseudo-labels."""
        curves = (key.startswith("train/pl_") for key in self.history)
        return self.config.get("pl_criterion") is not None or any(curves)

    def conf(self, key: str) -> dict[str, Any]:
        """Return nested settings, such as `encoder_conf`; none if there are none."""
        value = self.config.get(key)
        return value if isinstance(value, dict) else {}

    @property
    def system(self) -> str:
        """Its name without the random seed, by which runs are grouped."""
        name = re.sub(r"[/_.-]{2,}", "/", SEED.sub("", self.name))
        return name.strip("/_.-") or self.name

    @property
    def seed(self) -> str:
        """The random seed that the name tells, or else the configuration."""
        found = SEED.findall(str(self.experiment.directory))
        return found[-1] if found else str(self.config.get("seed", "–"))

    @property
    def scores(self) -> Scores:
        """Score by unit, by set; of several decodings of one set, of the last."""
        return dict(itertools.chain(*(d.items() for d in self.decodings.values())))

    @property
    def cached(self) -> bool:
        """Whether it keeps labels."""
        return self.config.get("pl_cache") not in (None, "none")


def names_of(directories: Sequence[Path]) -> list[str]:
    """Return a short name for each directory: as many last parts as tell them apart."""
    if len(set(directories)) < len(directories):
        twice = next(d for d in directories if directories.count(d) > 1)
        raise UserError(f"{twice} is named twice")
    shortenings = (
        ["/".join(path.parts[-count:]) for path in directories]
        for count in itertools.count(1)
    )
    return next(names for names in shortenings if len(set(names)) == len(names))


def read_runs(
    directories: Sequence[Path], references: decodings.References
) -> list[Run]:
    """Read trainings in the same order; what cannot be read of them becomes a note."""
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"{directory} is no directory")
        if not any((directory / name).exists() for name in SIGNS_OF_LIFE):
            raise UserError(
                f"{directory} is no experiment: it has none of "
                f"{', '.join(SIGNS_OF_LIFE)}, which ESPnet's training writes. Name the "
                f"--output_dir of a training"
            )
    places = [directory.resolve() for directory in directories]
    return [_read_run(p, name, references) for p, name in zip(places, names_of(places))]


def _read_run(directory: Path, name: str, references: decodings.References) -> Run:
    run = Run(name, Experiment(directory, {}))
    try:
        config = read_config(directory / "config.yaml")
        run.experiment = Experiment(directory, config)
    except (UserError, OSError) as error:
        run.notes.append(
            f"config.yaml is missing or not complete (ESPnet writes it when training "
            f"begins): {error}"
        )
    _read_curves(run)
    _read_status(run)
    if run.pseudo_labels:
        _read_guard(run)
        _read_samples(run)
        _read_levels(run)
    run.decodings, notes = decodings.find_decodings(run.experiment, references)
    run.notes += notes
    return run


def _read_curves(run: Run) -> None:
    checkpoint = run.experiment.directory / layout.CHECKPOINT
    with contextlib.suppress(*layout.UNREADABLE):
        states = layout.load_checkpoint(checkpoint)["optimizers"][0]["state"].values()
        run.updates = int(max((state.get("step", 0) for state in states), default=0))
    stats = layout.read_statistics(run.experiment.directory)
    run.history = read_history(stats)
    run.duration = datetime.timedelta(seconds=round(seconds_of(stats)))
    if stats:
        run.epochs = max(stats)
        run.batches = int(stats[run.epochs]["train"]["total_count"])
    else:
        reason = (
            "no checkpoint can be loaded. It is damaged, or has something in it that "
            "is not loaded for safety."
            if checkpoint.exists()
            else "no epoch is finished yet, or checkpoint.pth was deleted."
        )
        run.notes.append(f"There are no curves: {reason}")


def read_history(stats: layout.Statistics) -> History:
    """Turn statistics into curves; values that are not finite are left out."""
    history: History = {}
    for epoch in sorted(stats):
        batches = int(stats[epoch]["train"]["total_count"])
        for phase in ("train", "valid"):
            for name, value in stats[epoch].get(phase, {}).items():
                if name not in ("time", "total_count") and math.isfinite(value):
                    curve = history.setdefault(f"{phase}/{name}", [])
                    curve.append((batches, float(value)))
    return history


def seconds_of(stats: layout.Statistics) -> float:
    """Return how long training and validation took, in seconds."""
    parts = (epoch.get(p, {}) for epoch in stats.values() for p in ("train", "valid"))
    return sum(part["time"].total_seconds() for part in parts if "time" in part)


def _read_text(path: Path) -> str:
    """Return the text of a file with any bytes in it; none if it is not there."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_status(run: Run) -> None:
    """Say what the training is doing, as far as files tell."""
    directory, most = run.experiment.directory, run.config.get("max_epoch")
    logs = sorted(directory.glob("train*.log"), key=lambda log: log.stat().st_mtime)
    log = _read_text(logs[-1]) if logs else ""
    if any("The training was finished at" in line for line in log.split("\n")[-20:]):
        run.status = "finished"
        return
    if isinstance(most, int) and run.epochs >= most:
        run.status = f"all {most} epochs done"
        return
    signs = (*logs, *(directory / name for name in SIGNS_OF_LIFE))
    last = max(path.stat().st_mtime for path in signs if path.exists())
    when = datetime.datetime.fromtimestamp(last)
    run.status = f"running or stopped, last sign of life {when:%Y-%m-%d %H:%M:%S}"
    progress = PROGRESS.findall(log)
    if progress and int(progress[-1][0]) > run.epochs:
        run.status += "; epoch {}, mini-batch {}".format(*progress[-1])


def _read_guard(run: Run) -> None:
    """Read the guard's reports, and restore it from the newest side state."""
    for path in (run.experiment.directory / REPORT_DIR).glob("step*/report.txt"):
        step = path.parent.name.removeprefix("step")
        if step.isdigit():
            run.alarms.append(Alarm(int(step), _read_text(path)))
    run.alarms.sort()
    name = str(run.config.get("pl_guard", "warn"))
    try:
        guard = monitors_guard.build(name, **run.conf("pl_guard_conf"))
    except (ValueError, TypeError) as error:
        run.notes.append(f"The guard's settings are not allowed here: {error}")
        return
    if guard is None:
        run.notes.append("pl_guard is none: there are no limits to show.")
        return
    for path in run.experiment.snapshots():
        with contextlib.suppress(*layout.UNREADABLE):
            guard.load_state_dict(load_state(path, mmap=True)["guard"])
            run.guard = guard
            return
    run.notes.append("The guard's state is not there yet: it is saved with an epoch.")


def _read_levels(run: Run) -> None:
    """Find where pseudo-labels begin, and what the base model was like there."""
    run.start = int(run.conf("pl_schedule_conf").get("start_step") or 0)
    base: dict[str, float] = {}
    if run.start:
        for key, curve in run.history.items():
            before = [value for step, value in curve if step <= run.start]
            if key.startswith("valid/") and before:
                base[key] = before[-1]
    elif models := run.config.get("init_param"):
        file = run.experiment.find(str(models[0]).partition(":")[0])
        stats = layout.read_statistics(file.parent) if file else {}
        for key, curve in read_history(stats).items():
            if best := BEST.get(key):
                base[key] = best(value for _, value in curve)
    for each in monitors_guard.GUARDED if run.guard else ():
        base[f"train/{each.name}"] = run.guard.reference(each.name)
    run.levels = {key: value for key, value in base.items() if math.isfinite(value)}


def _read_samples(run: Run) -> None:
    """Read the recorded labels of every process, what is true, and find their audio."""
    for path in (run.experiment.directory / SAMPLES_DIR).glob("*epoch.rank*.jsonl"):
        epoch = path.name.partition("epoch")[0]
        try:
            rows = [json.loads(line) for line in _read_text(path).split("\n") if line]
            # The confidence was not known to 0.1.0.
            run.samples += [
                {key: row[key] for key in SAMPLE_KEYS}
                | {"epoch": epoch, "confidence": row.get("confidence")}
                for row in rows
            ]
        except (ValueError, LookupError, TypeError):
            run.notes.append(f"{SAMPLES_DIR}/{path.name} cannot be read.")
    if not run.samples:
        run.notes.append(
            f"No labels of single utterances: {SAMPLES_DIR} is written at the end of "
            f"an epoch, with pl_samples above 0."
        )
    run.samples.sort(key=lambda row: (row["step"], row["utterance"]))
    oracle = str(run.config.get("unlabeled_oracle_text") or "")
    try:
        if oracle:
            run.truths = read_scp(run.experiment.find(oracle) or oracle, empty=True)
    except (OSError, ValueError):
        run.notes.append(f"unlabeled_oracle_text {oracle} cannot be read from here.")
    try:
        names = {row["utterance"] for row in run.samples}
        run.recordings = find_recordings(run.experiment, names)
    except (UserError, *READ_ERRORS) as error:
        run.notes.append(f"The audio of the samples is not found: {error}")
