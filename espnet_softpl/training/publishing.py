"""Labels over time and alarms, where TensorBoard, W&B or MLflow show a training."""

from __future__ import annotations

import importlib
import json
import logging
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet2.train.reporter import SubReporter, aggregate

from espnet_softpl.core.files import atomic_write
from espnet_softpl.monitors.samples import SAMPLES_DIR
from espnet_softpl.training.guarding import REPORT_DIR

logger = logging.getLogger(__name__)

COLUMNS = ("step", "utterance", "label", "student", "confidence", "dropped_by")
MLFLOW_RUN = "mlflow_run"  # In an experiment: the id of its run, to go on with.

Rows = Sequence[Sequence[Any]]  # Of COLUMNS.


class TensorBoard:
    """Shows labels and alarms as text, by ESPnet's writer. It has the numbers."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def epoch(self, epoch: int, values: Mapping[str, float], rows: Rows) -> None:
        """Show the labels of an epoch."""
        if rows:
            self._writer.add_text("pl_samples", to_markdown(rows), epoch)

    def alarm(self, step: int, text: str) -> None:
        """Show an alarm."""
        code = textwrap.indent(text, "    ")  # As it is, in Markdown.
        self._writer.add_text("pl_alarm", code, step)


class WandB:
    """Shows labels as a table and sends alarms, in the run that ESPnet has begun."""

    def __init__(self) -> None:
        self._wandb = importlib.import_module("wandb")

    def epoch(self, epoch: int, values: Mapping[str, float], rows: Rows) -> None:
        """Show the labels of an epoch."""
        if rows:
            table = self._wandb.Table(columns=list(COLUMNS), data=rows)
            self._wandb.log({"pl_samples": table})

    def alarm(self, step: int, text: str) -> None:
        """Send an alarm."""
        self._wandb.alert(title="espnet_softpl: an alarm", text=text)


class MLflow:
    """Logs an epoch's numbers, too, for ESPnet knows nothing of MLflow.

    A training that goes on after an interruption goes on in the same run.
    """

    def __init__(self, directory: Path) -> None:
        self._mlflow = importlib.import_module("mlflow")
        file = directory / MLFLOW_RUN
        known = file.read_text("utf-8") if file.exists() else None
        run = self._mlflow.active_run() or self._mlflow.start_run(
            known, run_name=directory.name
        )
        with atomic_write(file) as stream:
            stream.write(run.info.run_id)

    def epoch(self, epoch: int, values: Mapping[str, float], rows: Rows) -> None:
        """Log the numbers and labels of an epoch."""
        self._mlflow.log_metrics(dict(values), step=epoch)
        if rows:
            columns = dict(zip(COLUMNS, map(list, zip(*rows))))
            self._mlflow.log_table(columns, "pl_samples.json")

    def alarm(self, step: int, text: str) -> None:
        """Log an alarm."""
        self._mlflow.log_text(text, f"pl_alarms/step{step}.txt")


def find_receivers(
    directory: Path, writer: Any, use_wandb: bool
) -> list[TensorBoard | WandB | MLflow]:
    """Return who shows a training: what ESPnet's options and the environment turn on.

    Args:
        directory: Of the experiment.
        writer: TensorBoard's, or None.
        use_wandb: Whether a run of W&B has begun.
    """
    found: list[TensorBoard | WandB | MLflow] = []
    if writer is not None:
        found.append(TensorBoard(writer))
    if use_wandb:
        found.append(WandB())
    if os.getenv("MLFLOW_TRACKING_URI"):
        try:
            found.append(MLflow(directory))
        except Exception as error:  # Not installed, or no server there.
            logger.warning("MLFLOW_TRACKING_URI is set, but nothing is sent: %s", error)
    return found


class Publisher:
    """Hands on what the first process has written to an experiment's `directory`.

    What cannot be delivered is told in the log, and the training goes on.
    """

    def __init__(self, directory: Path, receivers: Sequence[Any]) -> None:
        self._directory, self._receivers = directory, receivers
        self._known = set(self._reports())
        self._values: dict[str, float] = {}

    def _reports(self) -> list[Path]:
        return sorted((self._directory / REPORT_DIR).glob("step*/report.txt"))

    def after_training(self, reporter: SubReporter) -> None:
        """Hand on reports of the guard that are new, after (a part of) an epoch."""
        self._keep(reporter)
        new = [report for report in self._reports() if report not in self._known]
        self._known.update(new)
        for report in new:
            step = int(report.parent.name.removeprefix("step"))
            self._hand_on("alarm", step, report.read_text("utf-8"))

    def after_validation(self, reporter: SubReporter) -> None:
        """Hand on the means of an epoch, and the labels that were recorded in it."""
        self._keep(reporter)
        epoch = reporter.get_epoch()
        file = self._directory / SAMPLES_DIR / f"{epoch}epoch.rank0.jsonl"
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        rows = [[json.loads(line)[name] for name in COLUMNS] for line in lines]
        self._hand_on("epoch", epoch, self._values, rows)

    def _keep(self, reporter: SubReporter) -> None:
        for name, reported in reporter.stats.items():
            value = aggregate(reported)
            if isinstance(value, (int, float)):
                self._values[f"{reporter.key}/{name}"] = float(value)

    def _hand_on(self, kind: str, *what: Any) -> None:
        for receiver in self._receivers:
            try:
                getattr(receiver, kind)(*what)
            except Exception as error:  # A server that is down for an hour.
                name = type(receiver).__name__
                logger.warning("%s did not get what it is to show: %s", name, error)


def to_markdown(rows: Sequence[Sequence[Any]]) -> str:
    """Write rows of `COLUMNS` as a table in Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    cells = ([str(cell).replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
