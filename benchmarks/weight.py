"""What the weight of the unlabeled loss (lambda) changes, with clipping on.

Trains from the recipe's base model of mini with several weights, everything else equal,
in both forms of the schedule, and compares the parameters at the end: how far each run
ends from the one of weight 1, as a share of the way that this one has gone. Where the
weight does nothing, that is what another rounding would give.

    python benchmarks/weight.py --updates 200 --json weight.json
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import mini
import torch

from espnet_softpl.training.schedule import FORMS


def configure(form: str, weight: float, options: argparse.Namespace) -> dict[str, Any]:
    """Return the configuration of one run: one epoch, labeled to unlabeled 1 : 3."""
    preset = mini.RECIPE / "conf/tuning/train_pl_hard_ctc.yaml"
    conf = mini.read_preset(preset, options.recipe, options.work)
    base = mini.seed_model(options.recipe, 1)
    unlabeled = options.recipe / "dump/mini/unlabeled/wav.scp"
    per_update = 4 if form == "block" else 1
    return {
        **conf,
        "init_param": [str(base)],
        "unlabeled_data_path_and_name_and_type": [[str(unlabeled), "speech", "sound"]],
        "pl_criterion": "hard_ctc",
        "pl_teacher_conf": {"decay": 0.99},
        "pl_schedule_conf": {"form": form, "unlabeled_steps": 3, "weight": weight},
        "pl_samples": 0,
        "batch_bins": options.batch_bins,
        "max_epoch": 1,
        "num_iters_per_epoch": options.updates * per_update,
        "num_workers": 0,
    }


def train(form: str, weight: float, options: argparse.Namespace) -> dict[str, Any]:
    """Train; return the parameters as one vector, and what the log says of clipping."""
    exp = options.work / f"{form}_{weight:g}"
    exp.mkdir()
    log = exp / "train.log"
    try:
        mini.train(configure(form, weight, options), exp, options.recipe)
    except subprocess.CalledProcessError as error:  # The log goes with the directory.
        raise SystemExit(log.read_text(encoding="utf-8")[-3000:]) from error
    said = re.search(
        r"(\d+) of (\d+) updates were clipped\. (.*)", log.read_text("utf-8")
    )
    clipped, updates, norms = said.groups()
    return {
        "vector": vector(exp / "latest.pth"),
        "clipped": int(clipped) / int(updates),
        "norms": [float(n) for n in re.findall(r"([\d.e+]+) of the \w*labeled", norms)],
    }


def vector(file: Path) -> torch.Tensor:
    """Read a model's weights, without the running means of its normalizations."""
    weights = torch.load(file, map_location="cpu", weights_only=True)
    kept = [
        value.flatten().double()
        for key, value in weights.items()
        if "running_" not in key and "num_batches" not in key
    ]
    return torch.cat(kept)


def compare(
    runs: dict[tuple[str, float], dict[str, Any]], start: torch.Tensor
) -> dict[str, Any]:
    """Return distance, clipping and gradient norms of each run, by form and weight."""
    figures: dict[str, dict[str, float]] = {}
    for (form, weight), run in runs.items():
        of_one = runs[form, 1.0]["vector"]
        way = (of_one - start).norm()
        figures[f"{form}_{weight:g}"] = {
            "distance": float((run["vector"] - of_one).norm() / way),
            "clipped": run["clipped"],
            "norm_labeled": run["norms"][0],
            "norm_unlabeled": run["norms"][1],
        }
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with the command line's words, those of the process if None."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--updates", type=int, default=200, help="updates of a run [%(default)s]")
    add("--batch_bins", type=int, default=100_000, help="of a batch [%(default)s]")
    add("--weights", type=float, nargs="+", default=[0.25, 4.0], help="beside 1")
    add("--recipe", type=Path, default=mini.RECIPE, help="the recipe, run to stage 8")
    add("--json", type=Path, help="write the figures there")
    options = parser.parse_args(argv)
    options.recipe = options.recipe.resolve()
    mini.prepare(options.recipe, [1], 1)
    with tempfile.TemporaryDirectory() as work:
        options.work = Path(work)
        runs = {
            (form, weight): train(form, weight, options)
            for form, weight in itertools.product(FORMS, [1.0, *options.weights])
        }
    figures = compare(runs, vector(mini.seed_model(options.recipe, 1)))
    rows = [
        [
            *name.split("_"),
            f"{row['distance']:.3f}",
            f"{100 * row['clipped']:.0f} %",
            f"{row['norm_labeled']:.3g}",
            f"{row['norm_unlabeled']:.3g}",
        ]
        for name, row in figures.items()
    ]
    header = ["form", "weight", "distance from weight 1", "clipped"]
    header += ["norm, labeled", "norm, unlabeled"]
    print(common.format_table(header, rows))
    if options.json:
        machine = common.describe_machine(torch.device("cpu"))
        flat = {f"{n}_{k}": v for n, row in figures.items() for k, v in row.items()}
        common.write_json(options.json, {**machine, **flat})


if __name__ == "__main__":
    main()
