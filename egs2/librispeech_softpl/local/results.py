#!/usr/bin/env python3
"""Score all systems of a corpus; write RESULTS.md, results.txt, results.json and plots.

Every training directory ``<exp>/seed<S>/<system>`` with a decoding is listed, and
those that were asked for but have none are listed as "not run".
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from datadir import DataDir, RecipeError, atomic_write, read_table, run_main
from plots import plot_all
from progress import clock
from runs import SUPERVISED, Run, read_run

from espnet_softpl.commands.scoring import Score, load_references, score_sets
from espnet_softpl.core.errors import UserError

NOT_RUN = "not run"
Table = list[list[str]]


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
        if place.suffix != ".previous"
    }
    wanted = {(seed, name) for seed in seeds for name in systems}
    others = sorted({name for _, name in found} - {*SUPERVISED, *systems})
    order = [*SUPERVISED, *(s for s in systems if s not in SUPERVISED), *others]
    pairs = sorted(found | wanted, key=lambda p: (order.index(p[1]), int(p[0])))
    return [read_run(exp / f"seed{seed}" / name, seed) for seed, name in pairs]


def percent(value: float) -> str:
    """Return an error rate in percent with one decimal.

    Args:
        value: In percent.
    """
    return f"{value:.1f}"


def with_interval(score: Score) -> str:
    """Return an error rate with half the width of its confidence interval.

    Args:
        score: The errors.
    """
    return f"{percent(score.rate)} ±{percent((score.high - score.low) / 2)}"


def mean(values: list[float]) -> float:
    """Return the mean.

    Args:
        values: At least one.
    """
    return sum(values) / len(values)


def change(run: Run, baseline: Run | None, name: str) -> float | None:
    """Return the relative change of the CER against a baseline, in percent.

    Args:
        run: A system.
        baseline: The one to compare with, or None.
        name: Set to compare on.

    Returns:
        A negative number where the CER is lower; None where it cannot be said.
    """
    if baseline is None or baseline.system == run.system:
        return None
    if not (run.scores and baseline.scores) or run.system == "warmup":
        return None
    base = baseline.scores[name]["char"].rate
    return 100.0 * (run.scores[name]["char"].rate - base) / base if base else None


def signed(value: float | None) -> str:
    """Return a relative change as text.

    Args:
        value: In percent, or None.
    """
    return "-" if value is None else f"{value:+.1f} %"


def error_table(runs: list[Run], sets: list[str], tests: list[str]) -> Table:
    """Return the table of error rates: one row per run, and a mean over seeds.

    Args:
        runs: The runs, ordered by system.
        sets: Names of all sets.
        tests: Names of the test sets, on which systems are compared.
    """
    baselines = {(run.system, run.seed): run for run in runs}
    pairs = [(base, name) for name in tests for base in SUPERVISED]
    head = ["system", "seed"]
    head += [f"{name} {unit}" for name in sets for unit in ("CER", "WER")]
    for base, name in pairs:
        head.append(f"{name} vs {base}" if len(tests) > 1 else f"vs {base}")
    table = [head]
    for system in dict.fromkeys(run.system for run in runs):
        group = [run for run in runs if run.system == system]
        changes: list[list[float | None]] = []
        for run in group:
            if not run.scores:
                table.append([system, run.seed] + [NOT_RUN] * (len(head) - 2))
                continue
            row = [
                with_interval(run.scores[name][unit])
                for name in sets
                for unit in ("char", "word")
            ]
            changes.append(
                [
                    change(run, baselines.get((base, run.seed)), name)
                    for base, name in pairs
                ]
            )
            table.append([system, run.seed, *row, *map(signed, changes[-1])])
        if len(changes) > 1:
            scored = [run for run in group if run.scores]
            table.append(mean_row(system, scored, changes))
    return table


def mean_row(
    system: str, runs: list[Run], changes: list[list[float | None]]
) -> list[str]:
    """Return the row with the means over seeds.

    Args:
        system: Its name.
        runs: Its runs that were scored.
        changes: Relative changes of each run.
    """
    rates = [
        percent(mean([run.scores[name][unit].rate for run in runs]))
        for name in runs[0].scores
        for unit in ("char", "word")
    ]
    means = []
    for column in zip(*changes, strict=True):
        known = [value for value in column if value is not None]
        means.append(signed(mean(known) if known else None))
    return [system, "mean", *rates, *means]


def count_table(runs: list[Run]) -> Table:
    """Return the substitutions, deletions and insertions.

    Args:
        runs: The runs.
    """
    table = [["system", "seed", "set", "unit", "reference", "S", "D", "I"]]
    for run in runs:
        for name, units in run.scores.items():
            for unit, score in units.items():
                counts = (
                    score.reference,
                    score.substitutions,
                    score.deletions,
                    score.insertions,
                )
                table.append([run.system, run.seed, name, unit, *map(str, counts)])
    return table


def training_table(runs: list[Run], hours: dict[str, float]) -> Table:
    """Return how each run was trained.

    Args:
        runs: The runs.
        hours: Hours of audio of ``labeled`` and ``unlabeled``.
    """
    head = ["system", "criterion", "teacher", "seed", "labeled h", "unlabeled h"]
    head += ["updates", "wall time", "PL CER first to last epoch", "PL WER"]
    table = [head]
    for run in runs:
        if not run.history:
            table.append([run.system, *[NOT_RUN] * (len(head) - 1)])
            table[-1][3] = run.seed
            continue
        quality = [run.first_and_last(f"train/{key}") for key in ("pl_cer", "pl_wer")]
        unlabeled = 0.0 if run.criterion == "supervised" else hours["unlabeled"]
        table.append(
            [
                run.system,
                run.criterion,
                run.teacher or "-",
                run.seed,
                f"{hours['labeled']:.2f}",
                f"{unlabeled:.2f}",
                str(run.updates),
                clock(run.seconds),
                *(
                    f"{100 * pair[0]:.1f} to {100 * pair[1]:.1f}" if pair else "-"
                    for pair in quality
                ),
            ]
        )
    return table


def markdown(table: Table) -> str:
    """Return a table in Markdown.

    Args:
        table: Rows of cells; the first is the head.
    """
    rows = ["| " + " | ".join(row) + " |" for row in table]
    rows.insert(1, "|" + " --- |" * len(table[0]))
    return "\n".join(rows)


def plain(table: Table) -> str:
    """Return a table with aligned columns.

    Args:
        table: Rows of cells; the first is the head.
    """
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    rows = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths)).rstrip()
        for row in table
    ]
    rows.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(rows)


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


def data_table(dump: Path, rate: int) -> tuple[Table, dict[str, float]]:
    """Describe the data.

    Args:
        dump: Directory of the corpus's formatted data.
        rate: Sample rate in Hz.

    Returns:
        The table, and the hours of audio by part.
    """
    table = [["part", "sets", "utterances", "speakers", "hours"]]
    hours: dict[str, float] = {}
    places = {"labeled": "labeled", "unlabeled": "unlabeled"}
    places |= {"dev": "org/dev", "test": "org/test"}
    for part, place in places.items():
        data = DataDir.load(dump / place)
        hours[part] = sum(map(int, data.samples.values())) / rate / 3600
        names = ", ".join(sorted(set(data.set_name.values())))
        if any(re.match(r"sp[\d.]+-", utterance) for utterance in data.wav):
            names += " (copies at other speeds counted)"
        speakers = len(set(data.speaker.values()))
        table.append([part, names, str(len(data)), str(speakers), f"{hours[part]:.2f}"])
    return table, hours


def write_results(runs: list[Run], args: argparse.Namespace) -> None:
    """Write the tables.

    Args:
        runs: The runs, scored where they were decoded.
        args: The options of the command.
    """
    sets = list(load_references(args.dump / "org"))
    dev = len(set(read_table(args.dump / "org" / "dev" / "utt2set").values()))
    described, hours = data_table(args.dump, args.fs)
    errors = error_table(runs, sets, sets[dev:])
    commands = [
        f"# {run.system}, seed {run.seed}\n{run.command}" for run in runs if run.command
    ]
    sections = [
        f"# Results on {args.exp.name}",
        f"Command: `{args.command}`",
        describe_software(),
        markdown(described),
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
    """Return a run as plain values, error rates included.

    Args:
        run: The run.
    """
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
    """Score every run that was decoded.

    Args:
        runs: The runs; their scores are set.
        args: The options of the command.
        sets: Reference by utterance, by set.

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
