"""The sections of the report that compare words: sample labels, and settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from espnet_softpl.commands.report import meaning
from espnet_softpl.commands.report.blocks import Cell, Paragraph, Sample, Section, Table
from espnet_softpl.commands.report.differences import UNSET, compare, differing, flatten
from espnet_softpl.commands.report.experiment import Experiment
from espnet_softpl.commands.report.figures import color_of
from espnet_softpl.commands.report.sections import NONE
from espnet_softpl.commands.scoring import score

MOST_ROWS = 6  # Of one utterance in one experiment.


LONGEST = 160  # Characters of a setting.


# They differ between any two experiments, and say nothing of them.
UNTOLD = {"output_dir", "config", "print_config", "dry_run", "resume", "log_level"}


def thin(rows: Sequence[Any], most: int) -> list[Any]:
    """Return at most so many rows, evenly spaced, with the first and the last.

    Args:
        rows: The rows.
        most: At least 2.
    """
    if len(rows) <= most:
        return list(rows)
    step = (len(rows) - 1) / (most - 1)
    return [rows[round(index * step)] for index in range(most)]


def samples(runs: Sequence[Experiment]) -> Section:
    """Return what a few utterances were labeled with over time.

    Args:
        runs: The experiments.
    """
    section = Section("samples", "Labels over time")
    ids = sorted({row["utterance"] for run in runs for row in run.samples})
    if not ids:
        section.blocks.append(Paragraph("No labels have been recorded yet."))
        return section
    section.blocks.append(Paragraph(meaning.READ_SAMPLES))
    for key in ids:
        truth = next((run.truths[key] for run in runs if key in run.truths), None)
        shown = []
        for run in runs:
            rows = [row for row in run.samples if row["utterance"] == key]
            if not rows:
                continue
            chosen = thin(rows, MOST_ROWS)
            before = [None, *(row["label"] for row in chosen)]
            shown.append(
                {
                    "name": run.name,
                    "color": color_of(runs.index(run)),
                    "left_out": len(rows) - len(chosen),
                    "rows": [
                        _sample_row(row, truth, old) for row, old in zip(chosen, before)
                    ],
                }
            )
        section.blocks.append(Sample(key, truth, shown))
    return section


def _sample_row(
    row: dict[str, Any], truth: str | None, before: str | None
) -> dict[str, Any]:
    error = ""
    if truth:
        error = f"{score([truth], [row['label']], 'word').rate:.0f}"
    return {
        "epoch": row["epoch"],
        "step": row["step"],
        "age": row["step"] - row["made"],
        "label": compare(row["label"], truth, before),
        "student": compare(row["student"], truth, None),
        "error": error,
        "weight": f"{row['weight']:g}",
        "dropped_by": row["dropped_by"],
    }


def settings(runs: Sequence[Experiment]) -> Section:
    """Return the settings in which the experiments differ, and those of PL.

    Args:
        runs: The experiments.
    """
    section = Section("settings", "Settings")
    known = [run for run in runs if run.config]
    configs = [
        {k: v for k, v in run.config.items() if k not in UNTOLD and _told(k)}
        for run in known
    ]
    names = [run.name for run in known]
    if len(known) > 1:
        rows = [
            [Cell(key), *(_setting(value) for value in values)]
            for key, values in differing(configs).items()
            if not key.startswith("pl_")
        ]
        section.blocks.append(
            Table("Settings that differ, but for pl_*.", ["setting", *names], rows)
            if rows
            else Paragraph("But for pl_* the settings are the same.")
        )
    learning = [run for run in known if run.pseudo_labels]
    flats = [
        flatten({k: v for k, v in run.config.items() if k.startswith("pl_")})
        for run in learning
    ]
    keys = sorted({key for flat in flats for key in flat})
    rows = []
    for key in keys:
        values = [flat.get(key) for flat in flats]
        if set(values) <= UNSET:
            continue
        differs = "differs" if len(set(values)) > 1 else ""
        rows.append([Cell(key, differs), *(_setting(value) for value in values)])
    if rows:
        names = [run.name for run in learning]
        head = ["setting", *names]
        section.blocks.append(Table("Settings of pseudo-labeling.", head, rows))
    if not section.blocks:
        section.blocks.append(Paragraph("There is nothing to compare."))
    return section


def _told(key: str) -> bool:
    """Tell whether a setting is about the training, not about where it ran."""
    return not key.startswith(("dist_", "wandb_", "use_wandb", "use_tensorboard"))


def _setting(value: str | None) -> str:
    if value is None:
        return NONE
    return value if len(value) <= LONGEST else f"{value[:LONGEST]}…"
