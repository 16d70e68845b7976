#!/usr/bin/env python3
"""Score all systems of a corpus; write report.html, RESULTS.md, results.txt and .json.

Every training directory `<exp>/seed<S>/<system>` with a decoding is listed, and
those that were asked for but have none are listed as "not run". The page and the
tables are those of `espnet_softpl.bin.report`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import pandas as pd
from datadir import DataDir, RecipeError, atomic_write, run_main

from espnet_softpl.commands.report.page import write_page
from espnet_softpl.commands.report.runs import Run, read_runs
from espnet_softpl.commands.report.tables import (
    comparison_table,
    error_table,
    experiment_table,
)
from espnet_softpl.commands.scoring import Score, load_references
from espnet_softpl.core.errors import UserError

SUPERVISED = ("warmup", "control")
NOT_RUN = "not run"


def find_places(exp: Path, seeds: list[str], systems: list[str]) -> list[Path]:
    """Find the runs that were asked for and all others that were decoded.

    Args:
        exp: Directory of the corpus's experiments.
        seeds: Seeds asked for.
        systems: Systems asked for, in the order of the table.

    Returns:
        Their directories, ordered by system, then by seed.
    """
    places = [path.parents[1] for path in exp.glob("seed*/*/decode/text")]
    found = {
        (place.parent.name.removeprefix("seed"), place.name)
        for place in places
        if not place.suffix.startswith(".previous")
    }
    wanted = {(seed, name) for seed in seeds for name in systems}
    others = sorted({name for _, name in found} - {*SUPERVISED, *systems})
    order = [*SUPERVISED, *(s for s in systems if s not in SUPERVISED), *others]
    pairs = sorted(found | wanted, key=lambda p: (order.index(p[1]), int(p[0])))
    return [exp / f"seed{seed}" / name for seed, name in pairs]


def with_errors(cell: object) -> object:
    """Return an error rate with its substitutions, deletions and insertions."""
    if not isinstance(cell, Score):
        return cell
    return f"{cell} ({cell.substitutions} S, {cell.deletions} D, {cell.insertions} I)"


def markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown."""
    rows = [list(table), ["---"] * table.shape[1], *table.astype(str).to_numpy()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def plain(table: pd.DataFrame) -> str:
    """Return a table with aligned columns."""
    rows = [list(table), *table.astype(str).to_numpy()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(lines)


def describe_software() -> str:
    """Return the versions and the number of processors that made the results."""
    versions = []
    for name in ("espnet_softpl", "espnet", "torch"):
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} (not installed as a package)")
    python = f"Python {platform.python_version()}"
    return f"With {', '.join(versions)}, {python}, {os.cpu_count()} processors."


def data_table(dump: Path, rate: int) -> pd.DataFrame:
    """Describe the formatted data, of a sample rate in Hz, one row for each part."""
    rows = []
    for part in ("labeled", "unlabeled", "dev", "test"):
        data = DataDir.load(dump / ("org" if part in ("dev", "test") else "") / part)
        names = ", ".join(sorted(set(data.set_name.values())))
        if any(re.match(r"sp[\d.]+-", utterance) for utterance in data.wav):
            names += " (copies at other speeds counted)"
        rows.append(
            {
                "part": part,
                "sets": names,
                "utterances": len(data),
                "speakers": len(set(data.speaker.values())),
                "hours": sum(map(int, data.samples.values())) / rate / 3600,
            }
        )
    return pd.DataFrame(rows)


def write_results(
    runs: Sequence[Run], missing: Sequence[Path], args: argparse.Namespace
) -> None:
    """Write the tables of runs; those that were not decoded are `missing`."""
    described = data_table(args.dump, args.fs)
    errors = error_table(runs).drop(columns="decoding")
    absent = [
        {"system": place.name, "seed": place.parent.name.removeprefix("seed")}
        for place in missing
    ]
    errors = pd.concat([errors, pd.DataFrame(absent)]).fillna(NOT_RUN)
    commands = [
        f"# {run.name}\n{command}"
        for run in runs
        if (command := read_command(run.experiment.directory))
    ]
    sections = [
        f"# Results on {args.exp.name}",
        f"Command: `{args.command}`",
        describe_software(),
        "Curves, monitors and labels: [report.html](report.html).",
        markdown(described.assign(hours=described["hours"].map("{:.2f}".format))),
        "## Error rates in percent",
        "After ± half the width of the 95 % confidence interval (bootstrap over "
        "utterances), and substitutions (S), deletions (D) and insertions (I). A "
        "space counts as a character.",
        markdown(errors.map(with_errors)),
        "## Systems compared",
        "On the same utterances, in points of the error rate; negative is better. "
        "Interval and p paired: bootstrap over utterances, of the mean over seeds. p "
        "over seeds: exact, flips the signs of their differences.",
        markdown(comparison_table(runs)),
        "## Training",
        "Time is training and validation of one run. Its labels' error rates are "
        "those of the pseudo-labels trained on, before filtering, in the first and in "
        "the last epoch.",
        markdown(experiment_table(runs)),
        "## Training commands",
        "```\n" + "\n".join(commands) + "\n```",
    ]
    with atomic_write(args.exp / "results.json") as stream:
        json.dump([as_record(run) for run in runs], stream, indent=1)
    with atomic_write(args.exp / "RESULTS.md") as stream:
        stream.write("\n\n".join(sections) + "\n")
    with atomic_write(args.exp / "results.txt") as stream:
        stream.write(plain(errors) + "\n")


def read_command(directory: Path) -> str:
    """Return the training command from the head of the last log, with plain `python`.

    Args:
        directory: Training directory.
    """
    log = directory / "train.log"
    if not log.is_file():
        return ""
    with log.open(encoding="utf-8", errors="replace") as stream:
        match = re.match(r"# (.*)", stream.readline())
    return re.sub(r"^\S+", "python", match[1].strip()) if match else ""


def as_record(run: Run) -> dict[str, object]:
    """Return a run as plain values, error rates included."""
    scores = {
        name: {
            unit: {**asdict(score), "rate": score.rate} for unit, score in units.items()
        }
        for name, units in run.scores.items()
    }
    for units in scores.values():
        for score in units.values():
            del score["errors"]
    return {
        "system": run.experiment.directory.name,
        "seed": run.seed,
        "criterion": str(run.config.get("pl_criterion") or "supervised"),
        "teacher": str(run.config.get("pl_teacher") or "") * run.pseudo_labels,
        "updates": run.updates,
        "seconds": run.duration.total_seconds(),
        "history": run.history,
        "command": read_command(run.experiment.directory),
        "scores": scores,
    }


def drop_stale(runs: Sequence[Run], args: argparse.Namespace) -> list[Run]:
    """Return the runs that were decoded of the data that are there now.

    Raises:
        RecipeError: A run that was asked for lacks hypotheses.
    """
    for run in (run for run in runs if not run.scores):
        place = run.experiment.directory
        reason = f"{place}/decode/text does not fit the data: {run.notes[-1]}"
        if run.seed in args.seeds and place.name in args.systems:
            raise RecipeError(reason)
        print(f"warning: left out: {reason}")
    return [run for run in runs if run.scores]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--exp", type=Path, required=True)
    parser.add_argument("--dump", type=Path, required=True)
    parser.add_argument("--fs", type=int, required=True, help="sample rate in Hz")
    parser.add_argument("--seeds", nargs="+", required=True)
    parser.add_argument("--systems", nargs="+", required=True)
    parser.add_argument("--command", default="./run.sh", help="what made the results")
    args = parser.parse_args()
    places = find_places(args.exp, args.seeds, args.systems)
    decoded = [place for place in places if (place / "decode" / "text").is_file()]
    if not decoded:
        raise RecipeError(f"no system of {args.exp} was decoded; run stage 10 first")
    try:
        runs = read_runs(decoded, load_references(args.dump / "org"))
    except UserError as error:
        raise RecipeError(str(error)) from error
    runs = drop_stale(runs, args)
    write_page(runs, args.exp)
    write_results(runs, [place for place in places if place not in decoded], args)
    print(f"{args.exp}/report.html, RESULTS.md, results.txt and results.json")


if __name__ == "__main__":
    run_main(main)
