"""Tables of the report that stage 11 of the recipe prints too."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from espnet_softpl.commands.report.runs import Run
from espnet_softpl.commands.report.words import error_rate
from espnet_softpl.commands.scoring import UNITS, Score, Scores, compare_errors

ALL_PAIRS = 4  # Systems, up to which all pairs of them are compared.


def by_system(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs that differ in the random seed alone, as their names tell."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.system, []).append(run)
    return groups


def experiment_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return what each run is, and what it is doing."""
    return pd.DataFrame(map(_describe, runs))


def _describe(run: Run) -> dict[str, Any]:
    conf, most = run.config, run.config.get("max_epoch")
    errors = run.history.get("valid/cer_ctc") or run.history.get("valid/cer")
    ours = {"teacher": "–", "cache": "–", "label CER %": "–", "label WER %": "–"}
    if run.pseudo_labels:
        ours |= {key: conf.get(f"pl_{key}") or "–" for key in ("teacher", "cache")}
        for unit in UNITS.values():
            if curve := run.history.get(f"train/pl_{unit.lower()}"):
                ends = 100 * curve[0][1], 100 * curve[-1][1]
                ours[f"label {unit} %"] = "{:.1f} to {:.1f}".format(*ends)
    return {
        "experiment": run.name,
        "criterion": conf.get("pl_criterion") or "supervised",
        **ours,
        "seed": run.seed,
        "epochs": f"{run.epochs} of {most}" if most else str(run.epochs),
        "mini-batches": run.batches,
        "updates": run.updates,
        "time": str(run.duration),
        "best validation CER %": f"{100 * min(e for _, e in errors):.1f}"
        if errors
        else "–",
        "alarms": len(run.alarms) if run.pseudo_labels else "–",
        "status": run.status,
    }


def error_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Return a `Score` for each run, decoding, set and unit, and means over seeds."""
    rows: list[dict[str, Any]] = []
    for system, group in by_system(runs).items():
        for run in group:
            rows += [
                {"system": system, "seed": run.seed, "decoding": tag, **_cells(scores)}
                for tag, scores in run.decodings.items()
            ]
        decoded = [_cells(run.scores) for run in group if run.scores]
        if len(decoded) > 1:
            mean = {"system": system, "seed": "mean", "decoding": "–"}
            for cell in dict.fromkeys(itertools.chain(*decoded)):
                rates = [each[cell].rate for each in decoded if cell in each]
                spread = f"{min(rates):.1f} to {max(rates):.1f}"
                mean[cell] = f"{np.mean(rates):.1f} ({spread})"
            rows.append(mean)
    return pd.DataFrame(rows).fillna("–")


def _cells(scores: Scores) -> dict[str, Score]:
    return {
        f"{n} {UNITS[u]} %": s for n, units in scores.items() for u, s in units.items()
    }


def comparison_table(runs: Sequence[Run]) -> pd.DataFrame:
    """Compare systems on the sets that both have decoded, seed by seed.

    Up to `ALL_PAIRS` systems are compared each with each, more with the first alone.
    Single runs are compared whatever their seeds.
    """
    systems = {
        name: own
        for name, group in by_system(runs).items()
        if (own := [run for run in group if run.scores])
    }
    names = list(systems)
    pairs = itertools.combinations(names, 2)
    if len(names) > ALL_PAIRS:
        pairs = ((names[0], name) for name in names[1:])
    rows = []
    for other, name in pairs:
        own, base = (
            {run.seed: run.scores for run in systems[n]} for n in (name, other)
        )
        matched = [(own[seed], base[seed]) for seed in own if seed in base]
        if len(own) == len(base) == 1:
            matched = [(*own.values(), *base.values())]
        for part in dict.fromkeys(itertools.chain(*(mine for mine, _ in matched))):
            for unit, title in UNITS.items():
                both = [(a[part][unit], b[part][unit]) for a, b in matched if part in b]
                rows += _compare(name, other, f"{part} {title}", both)
    return pd.DataFrame(rows)


def _compare(
    name: str, other: str, what: str, both: Sequence[tuple[Score, Score]]
) -> list[dict[str, Any]]:
    """Return a row, or none if a set is not the same for both or not decoded."""
    sizes = {(score.reference, len(score.errors)) for pair in both for score in pair}
    if len(sizes) != 1:
        return []
    own, base = zip(*((a.errors, b.errors) for a, b in both))
    found = compare_errors(own, base, sizes.pop()[0])
    return [
        {
            "system": name,
            "compared with": other,
            "on": what,
            "seeds": found.seeds,
            "difference": f"{found.difference:+.2f}",
            "relative %": f"{found.relative:+.1f}",
            "95 % interval": f"{found.low:+.2f} to {found.high:+.2f}",
            "p paired": f"{found.p_paired:.4f}",
            "p over seeds": f"{found.p:.3f}" if found.seeds > 1 else "–",
        }
    ]


def sample_table(runs: Sequence[Run], most: int = 50) -> pd.DataFrame:
    """Rank the last label of each utterance, the least sure first, at most so many."""
    rows = []
    for run in runs:
        for row in {row["utterance"]: row for row in run.samples}.values():
            key, label = row["utterance"], row["label"]
            recording = run.recordings.get(key)
            rows.append(
                {
                    "utterance": key,
                    "experiment": run.name,
                    "confidence": row["confidence"],
                    "disagreement %": error_rate(row["student"], label, "char"),
                    "WER %": error_rate(label, run.truths.get(key)),
                    "letters per second": recording
                    and len(label.replace(" ", "")) / recording.seconds,
                    "weight": row["weight"],
                    "label": label or "(empty)",
                }
            )
    order = ["confidence", "disagreement %"]
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    return frame.sort_values(order, ascending=[True, False])[:most]
