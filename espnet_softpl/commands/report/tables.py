"""The tables of the page: one row for each experiment, monitor or setting.

A cell is text, or markup in which whatever comes from a file is escaped.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from espnet_softpl.commands.report import meaning
from espnet_softpl.commands.report.runs import Run
from espnet_softpl.monitors.guard import MONITORS, Guard

NONE = "–"

SPACE = "\u00a0"  # Does not break a line.

ARROW = f"{SPACE}→{SPACE}"

DROPPED = "train/pl_dropped_"

UNSET = {"null", "[]", "{}"}  # Not to be set, and to be set to nothing, is the same.

# They differ between any two experiments, and say nothing of them.
UNTOLD = {"output_dir", "config", "print_config", "dry_run", "resume", "log_level"}
UNTOLD_PARTS = ("dist_", "wandb_", "use_wandb", "use_tensorboard")


def build_tables(runs: Sequence[Run]) -> dict[str, pd.DataFrame]:
    """Return all tables by name; one without rows is empty.

    The index is the first column, and its name the title of that. All cells are text.
    """
    decoded = [(run.name, row) for run in runs for row in _error_rates(run)]
    learning = [run for run in runs if run.pseudo_labels]
    cached = [run for run in learning if has_cache(run)]
    guarded = {run.name: run.guard for run in learning if run.guard is not None}
    known = [run for run in runs if run.config]
    return {
        "summary": _table("experiment", [(run.name, _summary(run)) for run in runs]),
        "error_rates": _table("experiment", decoded),
        "labels": _table("experiment", [(run.name, _labels(run)) for run in learning]),
        "levels": _table("monitor", _levels(guarded) if guarded else []),
        "schedule": _table("experiment", [(run.name, _schedule(run)) for run in runs]),
        "cache": _table("experiment", [(run.name, _cache(run)) for run in cached]),
        "settings": differing_settings(known),
        "pl_settings": pl_settings([run for run in known if run.pseudo_labels]),
    }


def _table(first: str, rows: Iterable[tuple[str, Mapping[str, str]]]) -> pd.DataFrame:
    """Return a table of rows that may lack cells; `first` is the index's title."""
    names, cells = [name for name, _ in rows], [dict(row) for _, row in rows]
    index = pd.Index(names, name=first, dtype=object)
    # Markup stays what it is in a column of objects only.
    return pd.DataFrame(cells, index=index, dtype=object).fillna(NONE)


def has_cache(run: Run) -> bool:
    """Tell whether a run keeps labels."""
    return run.config.get("pl_cache") not in (None, "none")


def percent(value: float) -> str:
    """Return a fraction in percent, with one decimal."""
    return f"{100.0 * value:.1f}"


def number(value: float) -> str:
    """Return a number with three digits, a dash if it is not known."""
    return f"{value:.3g}" if math.isfinite(value) else NONE


def _course(run: Run, key: str, form: Callable[[float], str] = number) -> str:
    """Return a curve's first and last value, "first → last"."""
    pair = run.first_and_last(key)
    return ARROW.join(map(form, pair)) if pair else NONE


def _courses(run: Run, section: str) -> dict[str, str]:
    """Return the course of all statistics of a section, by title."""
    return {
        title: _course(run, key, percent if "(%)" in title else number)
        for key, title in meaning.titles(section).items()
    }


def _noted(text: str, note: str, kind: str = "") -> Markup:
    """Return text with a small note; `kind` is a class of the page, `bad` or `good`."""
    return Markup('<span class="{}">{} <small>{}</small></span>').format(
        kind, text, note
    )


def _summary(run: Run) -> dict[str, str]:
    """Return what a run is and what it has done."""
    config, most = run.config, run.config.get("max_epoch")
    errors = run.history.get("valid/cer_ctc") or run.history.get("valid/cer") or []
    best = min((error for _, error in errors), default=None)
    alarms = str(len(run.alarms)) if run.pseudo_labels else NONE
    if run.alarms:
        alarms = Markup('<span class="bad">{}</span>').format(alarms)
    return {
        "criterion": str(config.get("pl_criterion") or "supervised"),
        "teacher": str(config.get("pl_teacher", NONE)) if run.pseudo_labels else NONE,
        "cache": str(config.get("pl_cache", NONE)) if run.pseudo_labels else NONE,
        "epochs": f"{run.epochs}{SPACE}of{SPACE}{most}" if most else str(run.epochs),
        "mini-batches": str(run.batches),
        "time": str(datetime.timedelta(seconds=round(run.seconds))),
        "best validation CER %": NONE if best is None else percent(best),
        "alarms": alarms,
        "status": run.status,
    }


def _error_rates(run: Run) -> list[dict[str, str]]:
    """Return the error rates of a run, one row for each decoding."""
    rows: dict[str, dict[str, str]] = {}
    for decoding in run.decodings:
        row = rows.setdefault(decoding.tag, {"decoding": decoding.tag})
        for unit, title in (("char", "CER"), ("word", "WER")):
            score = decoding.scores[unit]
            row[f"{decoding.name} {title} %"] = _noted(
                f"{score.rate:.1f}{SPACE}±{(score.high - score.low) / 2:.1f}",
                f"{score.substitutions} S, {score.deletions} D, {score.insertions} I",
            )
    return list(rows.values())


def _labels(run: Run) -> dict[str, str]:
    """Return the quality of the pseudo-labels, and what the filters dropped."""
    dropped = [
        f"{key.removeprefix(DROPPED)} {_course(run, key, percent)}"
        for key in sorted(run.history)
        if key.startswith(DROPPED)
    ]
    return {
        **_courses(run, "labels"),
        "dropped by filter (%)": ", ".join(dropped) or NONE,
    }


def _levels(guards: Mapping[str, Guard]) -> list[tuple[str, dict[str, str]]]:
    """Return what each guard knows of each monitor, one column for each run."""
    meanings = meaning.meanings()
    return [
        (
            _noted(monitor, meanings[monitor].title),
            {
                "worry when": meanings[monitor].warning,
                **{name: _level(guard, monitor) for name, guard in guards.items()},
            },
        )
        for monitor in MONITORS
    ]


def _level(guard: Guard, monitor: str) -> Markup:
    """Return the base model's level of a monitor, the present one, and the limits."""
    level, reference = guard.level(monitor), guard.reference(monitor)
    low, high = guard.bounds(monitor)
    if math.isnan(level):
        return _noted(NONE, "not known yet: the base model's level comes first")
    limits = [
        f"{word} {number(limit)}"
        for word, limit in (("at least", low), ("at most", high))
        if math.isfinite(limit)
    ]
    note = f"limit: {', '.join(limits)}" if limits else "no limit"
    text = f"{number(reference)}{ARROW}{number(level)}"
    if low <= level <= high:
        return _noted(text, note, "good")
    return _noted(text, f"BEYOND ITS LIMIT, {note}", "bad")


def _schedule(run: Run) -> dict[str, str]:
    """Return how labeled and unlabeled mini-batches alternate, and their weight."""
    plan = run.conf("pl_schedule_conf")
    steps = str(run.batches // int(run.config.get("accum_grad") or 1))
    dropout = run.conf("encoder_conf").get("dropout_rate", NONE)
    cells = ["1 : 0", NONE, NONE, NONE, str(dropout)]
    if run.pseudo_labels:
        cells = [
            f"{plan.get('labeled_steps', 1)} : {plan.get('unlabeled_steps', 1)}",
            str(plan.get("start_step", 0)),
            str(plan.get("weight", 1.0)),
            str(plan.get("ramp_steps", 0)),
            f"{dropout}{ARROW}{plan.get('dropout', dropout)}",
        ]
    head = ["labeled : unlabeled", "from mini-batch", "weight (lambda)", "ramp"]
    head += ["dropout before → in PL"]
    return {**dict(zip(head, cells)), "optimizer steps": steps}


def _cache(run: Run) -> dict[str, str]:
    """Return the cache of a run, the age of its labels and their turnover."""
    return {
        "cache": str(run.config.get("pl_cache")),
        "size": str(run.conf("pl_cache_conf").get("size", "default")),
        **_courses(run, "cache"),
    }


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return what is set as JSON, in nested settings by `outer.inner`."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            text = json.dumps(value, ensure_ascii=False, default=str)
            if text not in UNSET:
                flat[f"{prefix}{key}"] = text
    return flat


def _settings(runs: Sequence[Run], wanted: Callable[[str], bool]) -> pd.DataFrame:
    """Return the settings of which the key is wanted, one column for each run."""
    flats = {run.name: flatten(run.config) for run in runs}
    keys = sorted({key for flat in flats.values() for key in flat if wanted(key)})
    rows = [
        (key, {name: flat.get(key) for name, flat in flats.items()}) for key in keys
    ]
    return _table("setting", rows)


def differing_settings(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the settings outside of `pl_*` in which runs differ."""
    frame = _settings(
        runs,
        lambda key: not key.startswith(("pl_", *UNTOLD_PARTS)) and key not in UNTOLD,
    )
    return frame[[row.nunique() > 1 for _, row in frame.iterrows()]]


def pl_settings(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the settings of pseudo-labeling, with a note if runs differ in them."""
    frame = _settings(runs, lambda key: key.startswith("pl_"))
    names = [
        _noted(key, "differs") if row.nunique() > 1 else key
        for key, row in frame.iterrows()
    ]
    return frame.set_axis(pd.Index(names, name="setting", dtype=object))
