"""What a label cache did in finished trainings, beside what theory says.

With C slots and a probability p of replacement, labels are used 1/p times on average,
and replaced after C/p unlabeled updates. In a run that is not much longer than that,
those that have been replaced are the short-lived ones: the third column is the mean
over many plans of the same length.

    python benchmarks/cache_use.py egs2/librispeech_softpl/exp/mini/seed*/slimipl_ls100
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import torch
import yaml

from espnet_softpl.cache.plan import CachePlan
from espnet_softpl.core.files import load_state
from espnet_softpl.training.resume.layout import STATE_DIR, load_checkpoint
from espnet_softpl.training.schedule import Schedule


def read_run(directory: Path) -> dict[str, Any]:
    """Read what a training with `pl_cache: slimipl` left.

    Args:
        directory: The experiment directory.

    Returns:
        C (`size`), p (`probability`), `draws` (unlabeled turns, the filling included),
        the counts of the cache, and `age`, the mean of `pl_age` in the last epoch.

    Raises:
        ValueError: It was trained without such a cache, or in several processes.
    """
    conf = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    stats = load_checkpoint(directory / "checkpoint.pth")["reporter"]["stats"]
    last = max(stats)
    states = list((directory / STATE_DIR).glob(f"{last}epoch.rank*.pth"))
    cache = load_state(states[0])["cache"] if len(states) == 1 else None
    if conf.get("pl_cache") != "slimipl" or cache is None:
        raise ValueError(f"{directory}: no run of one process with pl_cache: slimipl")
    settings = cache["settings"]
    size = len(cache["inserted_at"])
    schedule = Schedule(**conf["pl_schedule_conf"])
    steps = stats[last]["train"]["total_count"]
    turns = schedule.turn_of(conf["seed"], steps, size)
    return {
        "size": size,
        "probability": settings["probability"],
        "in_place": settings["in_place"],
        "draws": schedule.unlabeled_before(conf["seed"], turns),
        "age": stats[last]["train"]["pl_age"],
        **cache["counts"],
    }


def expected(run: dict[str, Any], plans: int) -> tuple[float, float]:
    """Compute mean uses and updates of replaced labels in runs of the same length.

    Args:
        run: What `read_run` returned.
        plans: How many plans are drawn.

    Returns:
        Their means.
    """
    uses, updates = [], []
    for seed in range(plans):
        plan = CachePlan(run["size"], seed, run["probability"], run["in_place"])
        used: dict[int, int] = {}
        inserted_at: dict[int, int] = {}
        for draw, loads in enumerate(itertools.islice(plan.draws(0), run["draws"])):
            for load in reversed(loads):  # A label is used before it is replaced.
                if not load.insert:
                    used[load.slot] += 1
                    continue
                if load.slot in used:
                    uses.append(used[load.slot])
                    updates.append(draw - inserted_at[load.slot])
                used[load.slot], inserted_at[load.slot] = 0, draw
    return statistics.fmean(uses), statistics.fmean(updates)


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table of the runs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("exp", type=Path, nargs="+", help="experiment directories")
    parser.add_argument(
        "--plans", type=int, default=300, help="plans of the same length (default 300)"
    )
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args(argv)
    rows, figures = [], {}
    for directory in options.exp:
        run = read_run(directory)
        size, p = run["size"], run["probability"]
        uses, updates = (run[k] / max(run["replaced"], 1) for k in ("uses", "updates"))
        alike = expected(run, options.plans)
        name = f"{directory.parent.name}/{directory.name}"
        cells = [str(size), f"{p:g}", str(run["draws"]), str(run["replaced"])]
        cells += [f"{uses:.2f}", f"{alike[0]:.2f}", f"{1 / p:g}"]
        cells += [f"{updates:.1f}", f"{alike[1]:.1f}", f"{size / p:g}"]
        rows.append([name, *cells, f"{run['age']:.0f}"])
        found = dict(uses=uses, uses_expected=alike[0], updates=updates)
        found["updates_expected"] = alike[1]
        figures.update({f"{name}.{k}": v for k, v in {**run, **found}.items()})
    header = ["run", "C", "p", "draws", "replaced", "uses", "expected", "1/p"]
    header += ["updates", "expected", "C/p", "pl_age at the end"]
    print(common.format_table(header, rows))
    if options.json:
        figures["command"] = common.command_line("benchmarks/cache_use.py", argv)
        figures.update(common.describe_machine(torch.device("cpu")))
        common.write_json(options.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
