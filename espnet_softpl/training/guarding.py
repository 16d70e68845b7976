"""What the guard's alarms do to a training: report, stop, or go back and go on.

The guard sees the statistics that ESPnet has already averaged over all processes, after
each optimizer step: every process decides the same, without a further exchange.
"""

from __future__ import annotations

import dataclasses
import logging
import math

from espnet2.train.reporter import SubReporter

from espnet_softpl.core.errors import CollapseError
from espnet_softpl.core.processes import rank_and_world
from espnet_softpl.monitors.diagnosis import explain, write_report
from espnet_softpl.monitors.guard import MONITORS
from espnet_softpl.training.resume import snapshot
from espnet_softpl.training.resume.snapshot import Training

logger = logging.getLogger(__name__)

REPORT_DIR = "pl_collapse"


def latest_monitors(reporter: SubReporter) -> dict[str, float]:
    """Read the monitors of the latest step, by name; NaN after a labeled batch."""
    latest = {name: reporter.stats.get(name) for name in MONITORS}
    return {
        name: float(reported[-1].value) if reported else math.nan
        for name, reported in latest.items()
    }


def consult_guard(training: Training) -> None:
    """Let the guard see the latest step, and act if it raises an alarm.

    At a back-off weights, optimizers, teacher and averages become those of the last
    healthy epoch's end; learning-rate schedule, data and the guard's memory go on.

    Raises:
        CollapseError: The guard stops the training.
    """
    monitors = latest_monitors(training.reporter)
    if all(math.isnan(value) for value in monitors.values()):
        return
    engine = training.model.pl
    guard = engine.guard
    alarm = guard.observe(training.reporter.get_total_count(), monitors)
    if alarm is None:
        return
    logger.warning("%s", explain(alarm))
    if rank_and_world()[0] == 0:
        ids, label = engine.last_batch
        directory = training.output_dir / REPORT_DIR
        report = write_report(directory, alarm, guard, label, ids)
        logger.warning("The batch and a plot of the monitors are in %s", report)
    if guard.action == "warn":
        return
    if guard.action == "stop" or guard.exhausted:
        raise CollapseError(f"training is stopped: {explain(alarm)}")
    healthy = dataclasses.replace(training, epoch=engine.healthy_epoch)
    snapshot.load(healthy, snapshot.HEALTHY, back_off=True)
    guard.note_back_off()
    logger.warning(
        "Back-off %d of at most %d: the model is that of the end of epoch %d again, "
        "the unlabeled loss is multiplied by %g",
        guard.back_offs,
        guard.max_back_offs,
        engine.healthy_epoch,
        guard.weight_factor,
    )


def keep_healthy(training: Training) -> None:
    """At the start of an epoch, save the epoch before it for a back-off, if healthy."""
    engine = training.model.pl
    if engine.guard is None or engine.guard.action != "back_off":
        return
    if engine.guard.healthy or engine.healthy_epoch is None:
        snapshot.save_healthy(dataclasses.replace(training, epoch=training.epoch - 1))
