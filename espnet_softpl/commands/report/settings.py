"""Settings of experiments, side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from espnet_softpl.commands.report.runs import Run

UNSET = {"null", "[]", "{}"}  # Not to be set, and to be set to nothing, is the same.

# They differ between any two experiments, and say nothing of them.
OF_THE_RUN = ("output_dir", "config", "print_config", "dry_run", "resume", "log_level")
OF_THE_RUN += ("dist_", "wandb_", "use_wandb", "use_tensorboard")


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

    Returns:
        Settings outside of `pl_*` in which runs differ; and all of `pl_*`, of those
        runs that learn from pseudo-labels. NaN if a run does not have a setting.
    """
    flats = {run.name: flatten(run.config) for run in runs if run.config}
    frame = pd.DataFrame(flats, dtype=object).sort_index()
    learning = [run.name for run in runs if run.pseudo_labels and run.name in flats]
    rows = [(k, row) for k, row in frame.iterrows() if not set(row.dropna()) <= UNSET]
    ours = [key for key, _ in rows if key.startswith("pl_")]
    others = [
        key
        for key, row in rows
        if not key.startswith(("pl_", *OF_THE_RUN)) and row.nunique(dropna=False) > 1
    ]
    return frame.loc[others], frame.loc[ours, learning]
