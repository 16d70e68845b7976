#!/usr/bin/env python3
"""Score all systems of a corpus; write RESULTS.md, results.txt, results.json and plots.

Every training directory `<exp>/seed<S>/<system>` with a decoding is listed, and
those that were asked for but have none are listed as "not run".
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import re
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
from datadir import DataDir, RecipeError, atomic_write, read_table, run_main
from runs import SUPERVISED, Run, read_run

from espnet_softpl.commands.report.figures import (
    FIGURES,
    Line,
    colors_of,
    draw_curves,
    draw_error_rates,
)
from espnet_softpl.commands.scoring import Score, load_references, score_sets
from espnet_softpl.core.errors import UserError

NOT_RUN = "not run"
UNITS = {"char": "CER", "word": "WER"}


def find_runs(exp: Path, seeds: list[str], systems: list[str]) -> list[Run]:
    """Read the runs that were asked for and all others that were decoded.

    Args:
        exp: Directory of the corpus's experiments.
        seeds: Seeds asked for.
        systems: Systems asked for, in the order of the table.

    Returns:
        Runs ordered by system, then by seed.
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
    return [read_run(exp / f"seed{seed}" / name, seed) for seed, name in pairs]


def with_interval(score: Score) -> str:
    """Return an error rate with half the width of its confidence interval."""
    return f"{score.rate:.1f} ±{(score.high - score.low) / 2:.1f}"


def signed(change: float) -> str:
    """Return a relative change in percent as text; NaN if it cannot be said."""
    return "-" if math.isnan(change) else f"{change:+.1f} %"


def relative_changes(rates: pd.DataFrame, tests: list[str]) -> pd.DataFrame:
    """Return the changes of the CER against the warm-up and the control, in percent.

    Args:
        rates: Error rates by `(system, seed)`; a run is compared with the same seed's.
        tests: Names of the test sets.

    Returns:
        A negative number means that the CER is lower; NaN that nothing can be said.
    """
    changes = pd.DataFrame(index=rates.index)
    systems = rates.index.get_level_values("system")
    for name in tests:
        cer = rates[f"{name} CER"]
        for base in SUPERVISED:
            own = cer[systems == base].droplevel("system")
            baseline = own.reindex(rates.index.get_level_values("seed")).to_numpy()
            column = f"{name} vs {base}" if len(tests) > 1 else f"vs {base}"
            change = 100.0 * (cer - baseline) / baseline
            known = np.isfinite(change) & ~systems.isin(["warmup", base])
            changes[column] = change.where(known)
    return changes


def error_table(runs: list[Run], sets: list[str], tests: list[str]) -> pd.DataFrame:
    """Return the table of error rates: one row per run, and a mean over seeds.

    Args:
        runs: The runs, ordered by system.
        sets: Names of all sets.
        tests: Names of the test sets, on which systems are compared.
    """
    scored = [run for run in runs if run.scores]
    cells = {f"{n} {title}": (n, unit) for n in sets for unit, title in UNITS.items()}
    rates = pd.DataFrame(
        [{c: run.scores[n][u].rate for c, (n, u) in cells.items()} for run in scored],
        index=pd.MultiIndex.from_tuples(
            [(run.system, run.seed) for run in scored], names=["system", "seed"]
        ),
    )
    changes = relative_changes(rates, tests)
    rows = []
    for system in dict.fromkeys(run.system for run in runs):
        group = [run for run in runs if run.system == system]
        for run in group:
            row = {"system": system, "seed": run.seed}
            if run.scores:
                row |= {
                    c: with_interval(run.scores[n][u]) for c, (n, u) in cells.items()
                }
                row |= changes.loc[(system, run.seed)].map(signed)
            rows.append(row)
        if sum(bool(run.scores) for run in group) > 1:
            mean = rates.loc[system].mean().map("{:.1f}".format)
            mean_change = changes.loc[system].mean().map(signed)
            rows.append({"system": system, "seed": "mean", **mean, **mean_change})
    columns = ["system", "seed", *cells, *changes.columns]
    return pd.DataFrame(rows, columns=columns).fillna(NOT_RUN)


def count_table(runs: list[Run]) -> pd.DataFrame:
    """Return the substitutions, deletions and insertions."""
    rows = [
        {"system": run.system, "seed": run.seed, "set": name, "unit": unit}
        | asdict(score)
        for run in runs
        for name, units in run.scores.items()
        for unit, score in units.items()
    ]
    letters = {"substitutions": "S", "deletions": "D", "insertions": "I"}
    return pd.DataFrame(rows).drop(columns=["low", "high"]).rename(columns=letters)


def training_table(runs: list[Run], hours: pd.Series) -> pd.DataFrame:
    """Return how each run was trained.

    Args:
        runs: The runs.
        hours: Hours of audio of `labeled` and `unlabeled`.
    """
    head = ["system", "criterion", "teacher", "seed", "labeled h", "unlabeled h"]
    head += ["updates", "wall time", "PL CER first to last epoch", "PL WER"]
    rows = []
    for run in runs:
        row = dict.fromkeys(head, NOT_RUN) | {"system": run.system, "seed": run.seed}
        rows.append(row)
        if not run.history:
            continue
        unlabeled = 0.0 if run.criterion == "supervised" else hours["unlabeled"]
        row |= {"criterion": run.criterion, "teacher": run.teacher or "-"}
        row |= {"labeled h": f"{hours['labeled']:.2f}", "updates": str(run.updates)}
        row |= {
            "unlabeled h": f"{unlabeled:.2f}",
            "wall time": str(datetime.timedelta(seconds=round(run.seconds))),
        }
        for column, key in zip(head[-2:], ("train/pl_cer", "train/pl_wer")):
            pair = run.first_and_last(key)
            row[column] = f"{100 * pair[0]:.1f} to {100 * pair[1]:.1f}" if pair else "-"
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown."""
    rows = [list(table), ["---"] * table.shape[1], *table.astype(str).to_numpy()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def plain(table: pd.DataFrame) -> str:
    """Return a table with aligned columns."""
    rows = [list(table), *table.to_numpy()]
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


def plot_all(runs: list[Run], out: Path) -> None:
    """Draw figures of the report as PNG files, and error rates: one color a system."""
    colors = colors_of(dict.fromkeys(run.system for run in runs))
    lines = [Line(run.system, colors[run.system], run.history) for run in runs]
    for name in ("losses", "pl_quality", "collapse"):
        draw_curves(FIGURES[name], lines, out / f"{name}.png")
    scores: dict[str, list[dict[str, dict[str, Score]]]] = {}
    for run in runs:
        if run.scores:
            scores.setdefault(run.system, []).append(run.scores)
    draw_error_rates(scores, colors, out / "error_rates.png")


def write_results(runs: list[Run], args: argparse.Namespace) -> None:
    """Write the tables of runs, scored if they were decoded."""
    sets = list(load_references(args.dump / "org"))
    dev = len(set(read_table(args.dump / "org" / "dev" / "utt2set").values()))
    described = data_table(args.dump, args.fs)
    hours = described.set_index("part")["hours"]
    errors = error_table(runs, sets, sets[dev:])
    commands = [
        f"# {run.system}, seed {run.seed}\n{run.command}" for run in runs if run.command
    ]
    sections = [
        f"# Results on {args.exp.name}",
        f"Command: `{args.command}`",
        describe_software(),
        markdown(described.assign(hours=described["hours"].map("{:.2f}".format))),
        "## Error rates in percent",
        "After ± half the width of the 95 % confidence interval (bootstrap over "
        "utterances). A space counts as a character. The last columns are relative "
        "changes of the test CER against the same seed's warm-up and control.",
        markdown(errors),
        "![error rates](plots/error_rates.png)",
        "## Errors",
        "Substitutions (S), deletions (D) and insertions (I).",
        markdown(count_table(runs)),
        "## Training",
        "Wall time is training and validation of one run. Its labels' error rates are "
        "those of the pseudo-labels trained on, before filtering.",
        markdown(training_table(runs, hours)),
        "![losses](plots/losses.png)",
        "![quality of the pseudo-labels](plots/pl_quality.png)",
        "![collapse monitors](plots/collapse.png)",
        "## Training commands",
        "```\n" + "\n".join(commands) + "\n```",
    ]
    with atomic_write(args.exp / "results.json") as stream:
        json.dump([as_record(run) for run in runs], stream, indent=1)
    with atomic_write(args.exp / "RESULTS.md") as stream:
        stream.write("\n\n".join(sections) + "\n")
    with atomic_write(args.exp / "results.txt") as stream:
        stream.write(plain(errors) + "\n")


def as_record(run: Run) -> dict[str, object]:
    """Return a run as plain values, error rates included."""
    record = asdict(run)
    record["scores"] = {
        name: {
            unit: {**asdict(score), "rate": score.rate} for unit, score in units.items()
        }
        for name, units in run.scores.items()
    }
    return record


def score_runs(
    runs: list[Run], args: argparse.Namespace, sets: dict[str, dict[str, str]]
) -> list[Run]:
    """Set the scores of every run that was decoded.

    Returns:
        Runs that nobody asked for and that were decoded before the data changed.

    Raises:
        RecipeError: A run that was asked for lacks hypotheses.
    """
    stale = []
    for run in runs:
        hypotheses = args.exp / f"seed{run.seed}" / run.system / "decode" / "text"
        if not hypotheses.is_file():
            continue
        try:
            run.scores = score_sets(sets, read_table(hypotheses))
        except UserError as error:
            if run.seed in args.seeds and run.system in args.systems:
                raise RecipeError(f"{hypotheses}: {error}") from error
            print(f"warning: {hypotheses} is left out: it is of other data ({error})")
            stale.append(run)
    return stale


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
    try:
        sets = load_references(args.dump / "org")
    except UserError as error:
        raise RecipeError(str(error)) from error
    runs = find_runs(args.exp, args.seeds, args.systems)
    stale = score_runs(runs, args, sets)
    runs = [run for run in runs if run not in stale]
    if not any(run.scores for run in runs):
        raise RecipeError(f"no system of {args.exp} was decoded; run stage 10 first")
    plot_all(runs, args.exp / "plots")
    write_results(runs, args)
    print(f"{args.exp}/RESULTS.md, results.txt, results.json and plots/*.png")


if __name__ == "__main__":
    run_main(main)
