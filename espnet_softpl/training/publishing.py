"""Labels over time and alarms as text, where TensorBoard and W&B show a training."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from espnet_softpl.monitors.samples import SAMPLES_DIR
from espnet_softpl.training.guarding import REPORT_DIR

COLUMNS = ("step", "utterance", "label", "student", "confidence", "dropped_by")


class Publisher:
    """Hands on what the first process has written to an experiment's `directory`.

    `writer` is TensorBoard's, and `wandb` the module, with a run that has begun; both
    are None if they are off.
    """

    def __init__(self, directory: Path, writer: Any, wandb: Any) -> None:
        self._directory, self._writer, self._wandb = directory, writer, wandb
        self._known = set(self._reports())

    def _reports(self) -> list[Path]:
        return sorted((self._directory / REPORT_DIR).glob("step*/report.txt"))

    def samples(self, epoch: int) -> None:
        """Hand on the labels that were recorded in an epoch, as a table."""
        file = self._directory / SAMPLES_DIR / f"{epoch}epoch.rank0.jsonl"
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        rows = [[json.loads(line)[name] for name in COLUMNS] for line in lines]
        if self._writer is not None and rows:
            self._writer.add_text("pl_samples", to_markdown(rows), epoch)
        if self._wandb is not None and rows:
            table = self._wandb.Table(columns=list(COLUMNS), data=rows)
            self._wandb.log({"pl_samples": table})

    def alarms(self) -> None:
        """Hand on reports of the guard that are new."""
        new = [report for report in self._reports() if report not in self._known]
        self._known.update(new)
        for report in new:
            text, step = report.read_text("utf-8"), report.parent.name
            if self._writer is not None:
                code = textwrap.indent(text, "    ")  # As it is, in Markdown.
                self._writer.add_text("pl_alarm", code, int(step.removeprefix("step")))
            if self._wandb is not None:
                self._wandb.alert(title="espnet_softpl: an alarm", text=text)


def to_markdown(rows: Sequence[Sequence[Any]]) -> str:
    """Write rows of `COLUMNS` as a table in Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    cells = ([str(cell).replace("|", r"\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)
