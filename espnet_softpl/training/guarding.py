"""What the guard's alarms do to a training: report, stop, or go back and go on."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from espnet_softpl.core.errors import CollapseError
from espnet_softpl.core.processes import from_all, rank_and_world, wait_for_all
from espnet_softpl.monitors.diagnosis import explain, write_report
from espnet_softpl.monitors.guard import MONITORS
from espnet_softpl.monitors.statistics import DISAGREEMENT
from espnet_softpl.training.engine import PseudoLabeling
from espnet_softpl.training.resume import snapshot
from espnet_softpl.training.resume.snapshot import Training

logger = logging.getLogger(__name__)

REPORT_DIR = "pl_collapse"


def latest_monitors(training: Training) -> dict[str, float]:
    """Read the monitors of the latest step, by name; NaN after a labeled batch."""
    return {name: (training.reported(name, 1) or [math.nan])[0] for name in MONITORS}


def _mean(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Average each monitor over the rows in which it is known; NaN if in none."""
    values = {n: [row[n] for row in rows if not math.isnan(row[n])] for n in MONITORS}
    return {n: sum(v) / len(v) if v else math.nan for n, v in values.items()}


def _observations(training: Training) -> list[dict[str, float]]:
    """Return what the guard must see of the latest mini-batch, by monitor.

    ESPnet has averaged it over all processes. A cache's labels are seen when they are
    made, for when they are used, they may be old; of these the processes tell each
    other. So every process decides the same.
    """
    engine, latest = training.model.pl, latest_monitors(training)
    rows = [latest]
    if engine.cache is not None:
        nothing = dict.fromkeys(MONITORS, math.nan)
        made = [
            {n: float(row.get(n, math.nan)) for n in nothing} for row in engine.made
        ]
        engine.made.clear()
        by_process = itertools.zip_longest(*from_all(made), fillvalue=nothing)
        rows = [_mean(same) for same in by_process] or [nothing]
        rows[0][DISAGREEMENT.name] = latest[DISAGREEMENT.name]
    return [row for row in rows if not all(map(math.isnan, row.values()))]


def consult_guard(training: Training) -> None:
    """Let the guard see the latest step, and act if it raises an alarm.

    It warns, ends the training (CollapseError), or goes back: weights, optimizers,
    teacher and averages become those of the last healthy epoch's end; learning-rate
    schedule, data and the guard's memory go on. Weights that are not finite end the
    training, except that `back_off` goes back.
    """
    engine, step = training.model.pl, training.reporter.get_total_count()
    guard, broken = engine.guard, engine.broken
    engine.broken = ""
    alarm = guard.note_broken(step, broken) if broken else None
    for monitors in _observations(training):
        raised = guard.observe(step, monitors)
        alarm = alarm or raised
    if alarm is None:
        return
    logger.warning("%s", explain(alarm))
    if rank_and_world()[0] == 0:
        ids, label = engine.last_batch
        directory = training.output_dir / REPORT_DIR
        report = write_report(directory, alarm, guard, label, ids)
        logger.warning("The batch and a plot of the monitors are in %s", report)
        if guard.on_alarm is not None:
            call_for_help(guard.on_alarm, explain(alarm), report)
    if guard.on_alarm is not None:
        wait_for_all()  # 30 s after one process has ended, the others are killed.
    if guard.action == "warn" and not broken:
        return
    if guard.action != "back_off" or guard.exhausted:
        raise CollapseError(f"training is stopped: {explain(alarm)}")
    healthy = dataclasses.replace(training, epoch=engine.healthy_epoch)
    snapshot.load(healthy, snapshot.HEALTHY, back_off=True)
    for optimizer in training.optimizers:
        optimizer.zero_grad()  # Of accumulation, by the weights that are gone.
    guard.note_back_off()
    logger.warning(
        "Back-off %d of at most %d: the model is that of the end of epoch %d again, "
        "the unlabeled loss is multiplied by %g",
        guard.back_offs,
        guard.max_back_offs,
        engine.healthy_epoch,
        guard.weight_factor,
    )


def call_for_help(command: str, words: str, report: Path, seconds: int = 60) -> None:
    """Run a user's shell command about an alarm; a failure is only logged.

    It finds `words`, what the alarm says, in PL_ALARM and `report` in PL_REPORT.
    """
    environment = {**os.environ, "PL_ALARM": words, "PL_REPORT": str(report)}
    try:
        subprocess.run(  # noqa: S602 (it is the user's, written for a shell)
            command,
            shell=True,
            check=True,
            env=environment,
            timeout=seconds,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("pl_guard_conf.on_alarm: %s", error)


def keep_healthy(training: Training) -> None:
    """At the start of an epoch, save the epoch before it for a back-off, if healthy."""
    engine = training.model.pl
    if engine.guard is None or engine.guard.action != "back_off":
        return
    if engine.guard.healthy or engine.healthy_epoch is None:
        snapshot.save_healthy(dataclasses.replace(training, epoch=training.epoch - 1))


def warn_if_idle(training: Training) -> None:
    """At an epoch's end, say so if pseudo-labeling has begun and taught nothing."""
    engine = training.model.pl
    if (words := engine.learned.end_epoch(training.epoch)) and engine.begun:
        logger.warning("%s", words)


def judge_run(engine: PseudoLabeling) -> None:
    """At the end of a run, say so if no process has learned from unlabeled audio.

    With a guard that acts it is a CollapseError.
    """
    words = from_all(engine.learned.end_run())
    if not all(words):
        return
    error = f"{words[0]}. The model is that of labeled data alone"
    if engine.guard is not None and engine.guard.action != "warn":
        raise CollapseError(error)
    logger.error("%s", error)
