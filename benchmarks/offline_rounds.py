"""Updates that continuous pseudo-labels need to be as good as two offline rounds.

    (cd egs2/librispeech_softpl && ./run.sh --stop_stage 9)
    python benchmarks/offline_rounds.py --json FILE

An offline round labels all unlabeled audio of mini with the latest model, by
`softpl label`, and trains a model from random weights on labeled and pseudo-labeled
audio, by stock ESPnet and with the base model's configuration. The first round has the
labels of the recipe's base model. Continuous training goes on from that same one.

Both are judged by the CER of the dev set after each epoch, as ESPnet's trainer has it.
Offline, the mini-batches of all rounds count up to the best epoch of the last one; of
a continuous training, those up to the first epoch that is as good (both kinds of
mini-batches, so four for an update of the preset).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import mini

from espnet_softpl.commands.report.runs import read_history, seconds_of
from espnet_softpl.training.resume.layout import read_statistics

CURVE = "valid/cer_ctc"
BASE = "conf/train_warmup.yaml"

Curve = Sequence[tuple[int, float]]  # Mini-batches and CER, by epoch.


def first_as_good(curve: Curve, target: float) -> int | None:
    """Return the mini-batches until an epoch is as good; None if none is."""
    return next((step for step, rate in curve if rate <= target), None)


def compare(rounds: Sequence[Curve], continuous: Curve) -> dict[str, float | None]:
    """Compare offline rounds with a continuous training.

    Args:
        rounds: Their curves, the first round first.
        continuous: The curve of the other training.

    Returns:
        `offline_cer`, the best of the last round; `offline_updates` until there, and
        `continuous_updates` until as good; `ratio` of the latter to the former. Both
        are None if the continuous training is never as good.
    """
    *before, last = rounds
    target = min(rate for _, rate in last)
    offline = sum(curve[-1][0] for curve in before) + first_as_good(last, target)
    needed = first_as_good(continuous, target)
    return {
        "offline_cer": target,
        "offline_updates": offline,
        "continuous_updates": needed,
        "ratio": None if needed is None else needed / offline,
    }


def join_sets(labeled: Path, pseudo: Path, out: Path) -> None:
    """Write `wav.scp` and `text` of a labeled and a pseudo-labeled set as one.

    The first pseudo-labeled utterance is left out: the recipe wants an unlabeled one
    that is not among the labeled.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in ("wav.scp", "text"):
        lines, more = (
            (place / name).read_text("utf-8").splitlines(keepends=True)
            for place in (labeled, pseudo)
        )
        (out / name).write_text("".join(sorted([*lines, *more[1:]])), "utf-8")


def run_round(recipe: Path, number: int, model: Path, seed: int, epochs: int) -> Path:
    """Label with a model's directory and train from scratch; return the training's.

    What is finished is not run again.
    """
    name = f"offline_round{number}"
    labels, joined = recipe / f"exp/{name}_labels", recipe / f"data/{name}_joined"
    dump = recipe / "dump/mini"
    environment = {**os.environ, "PYTHON": sys.executable}
    environment["PYTHONPATH"] = str(common.ROOT)
    label = [sys.executable, "-m", "espnet_softpl.bin.label", "--asr_exp", str(model)]
    label += ["--wav_scp", str(dump / "unlabeled/wav.scp"), "--out", str(labels)]
    subprocess.run(label, cwd=recipe, env=environment, check=True)
    join_sets(dump / "labeled", labels, joined)
    train = ["./run.sh", "--corpus", name, "--stop_stage", "8", "--seeds", str(seed)]
    train += ["--labeled_dir", str(joined), "--dev_dir", "data/mini/dev"]
    train += ["--unlabeled_dir", "data/mini/unlabeled", "--test_dirs", "data/mini/test"]
    # The labeled set has its copies at other speeds already.
    train += ["--speed_perturb_factors", "", "--warmup_config", BASE]
    train += ["--train_args", f"--max_epoch {epochs}"]
    subprocess.run(train, cwd=recipe, env=environment, check=True)
    return recipe / f"exp/{name}/seed{seed}/warmup"


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is missing, compare, and print or write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", type=Path, default=mini.RECIPE, help="directory")
    parser.add_argument("--seed", type=int, default=1, help="random seed")
    parser.add_argument("--rounds", type=int, default=2, help="at least 1")
    parser.add_argument("--epochs", type=int, default=40, help="of each round")
    parser.add_argument("--systems", nargs="+", default=["hard_ctc", "soft_ctc"])
    parser.add_argument("--json", type=Path, help="file for the figures")
    args = parser.parse_args(argv)
    recipe = args.recipe.resolve()
    experiments = recipe / f"exp/mini/seed{args.seed}"
    curves, seconds, model = [], 0.0, experiments / "warmup"
    for number in range(1, args.rounds + 1):
        model = run_round(recipe, number, model, args.seed, args.epochs)
        statistics = read_statistics(model)
        curves.append(read_history(statistics)[CURVE])
        seconds += seconds_of(statistics)
    figures: dict[str, Any] = {
        "command": common.command_line("benchmarks/offline_rounds.py", argv),
        "date": time.strftime("%Y-%m-%d"),
        "offline_seconds": round(seconds),
    }
    for system in args.systems:
        statistics = read_statistics(experiments / system)
        figures[system] = compare(curves, read_history(statistics)[CURVE])
        figures[system]["seconds_of_all_epochs"] = round(seconds_of(statistics))
        print(system, figures[system])
    if args.json:
        common.write_json(args.json, figures)


if __name__ == "__main__":
    main()
