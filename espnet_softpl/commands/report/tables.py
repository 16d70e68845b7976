"""Tables of the report; stage 11 of the recipe prints most of them too."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from espnet_softpl.commands.report.runs import Run
from espnet_softpl.commands.report.samples import error_rate
from espnet_softpl.commands.scoring import UNITS, Score, Scores, compare_errors

ALL_PAIRS = 4  # Systems, up to which all pairs of them are compared.
UNSET = {"null", "[]", "{}"}  # Not to be set, and to be set to nothing, is the same.
# They differ between any two experiments, and say nothing of them.
OF_THE_RUN = ("output_dir", "config", "print_config", "dry_run", "resume", "log_level")
OF_THE_RUN += ("dist_", "wandb_", "use_wandb", "use_tensorboard")


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
    curve = run.history.get("valid/cer_ctc") or run.history.get("valid/cer")
    best = f"{100 * min(error for _, error in curve):.1f}" if curve else "–"
    ours = dict.fromkeys(("teacher", "cache", "label CER %", "label WER %"), "–")
    if run.pseudo_labels:
        ours |= {key: conf.get(f"pl_{key}") or "–" for key in ("teacher", "cache")}
        for unit in UNITS.values():
            if curve := run.history.get(f"train/pl_{unit.lower()}"):
                ours[f"label {unit} %"] = (
                    f"{100 * curve[0][1]:.1f} to {100 * curve[-1][1]:.1f}"
                )
    return {
        "experiment": run.name,
        "criterion": conf.get("pl_criterion") or "supervised",
        **ours,
        "seed": run.seed,
        "epochs": f"{run.epochs} of {most}" if most else str(run.epochs),
        "mini-batches": run.batches,
        "updates": run.updates,
        "time": str(run.duration),
        "best validation CER %": best,
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
    systems = by_system([run for run in runs if run.scores])
    names, rows = list(systems), []
    pairs = itertools.combinations(names, 2)
    if len(names) > ALL_PAIRS:
        pairs = ((names[0], name) for name in names[1:])
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
                if found := _compare(both):
                    what = {"compared with": other, "on": f"{part} {title}"}
                    rows.append({"system": name, **what, **found})
    return pd.DataFrame(rows)


def _compare(both: Sequence[tuple[Score, Score]]) -> dict[str, Any]:
    """Compare scores; nothing if a set is not the same for both or not decoded."""
    sizes = {(score.reference, len(score.errors)) for pair in both for score in pair}
    if len(sizes) != 1:
        return {}
    own, base = zip(*((a.errors, b.errors) for a, b in both))
    found = compare_errors(own, base, sizes.pop()[0])
    return {
        "seeds": found.seeds,
        "difference": f"{found.difference:+.2f}",
        "relative %": f"{found.relative:+.1f}",
        "95 % interval": f"{found.low:+.2f} to {found.high:+.2f}",
        "p paired": f"{found.p_paired:.4f}",
        "p over seeds": f"{found.p:.3f}" if found.seeds > 1 else "–",
    }


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
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    order = ["confidence", "disagreement %"]
    return frame.sort_values(order, ascending=[True, False])[:most]


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return values as JSON by key, in nested settings by `outer.inner`."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.dumps(value, ensure_ascii=False, default=str)
    return flat


def compare_settings(runs: Sequence[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compare the settings of runs: one row a setting, one column a run.

    Returns settings outside of `pl_*` in which runs differ; and all of `pl_*`, of those
    runs that learn from pseudo-labels. NaN if a run does not have a setting.
    """
    flats = {run.name: flatten(run.config) for run in runs if run.config}
    learning = [run.name for run in runs if run.pseudo_labels and run.name in flats]
    frame = pd.DataFrame(flats, dtype=object).sort_index()
    frame = frame[~(frame.isna() | frame.isin(UNSET)).all(axis=1)]
    names, differ = frame.index.astype(str).str, frame.nunique(axis=1, dropna=False) > 1
    others = differ & ~names.startswith(("pl_", *OF_THE_RUN))
    return frame[others], frame.loc[names.startswith("pl_"), learning]
