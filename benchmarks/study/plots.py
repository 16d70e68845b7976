"""Plots of the study, made from `runs.jsonl` alone.

    python benchmarks/study/plots.py rates docs/images/study_rates.png
    python benchmarks/study/plots.py curves collapse.png --phase collapse

A system has the same color in all of them if `--only` names the same ones.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from run_grid import LINES, select_lines  # noqa: E402

from espnet_softpl.commands.report import figures  # noqa: E402
from espnet_softpl.core.files import atomic_file  # noqa: E402

PANELS = {
    "dev_cer_ctc": "dev CER, greedy (%)",
    "pl_frame_entropy": "frame entropy of the labels (nats)",
    "pl_blank_share": "share of blank frames",
}


def draw_rates(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the test CER of each run as a point, and the mean of a system as a bar.

    Args:
        lines: Runs that have been scored on a test set.
        path: PNG file to write; a panel for each corpus.
    """
    corpora = list(dict.fromkeys(line["corpus"] for line in lines))
    figure = Figure((5.0 * len(corpora), 3.6), layout="constrained")
    axes = figure.subplots(1, len(corpora), squeeze=False)[0]
    for axis, corpus in zip(axes, corpora):
        runs = [line for line in lines if line["corpus"] == corpus]
        names = list(dict.fromkeys(line["system"] for line in runs))
        for place, (name, color) in enumerate(figures.colors_of(names).items()):
            rates = [line["test"]["cer"] for line in runs if line["system"] == name]
            axis.bar(place, sum(rates) / len(rates), color=color, alpha=0.35)
            axis.plot([place] * len(rates), rates, "o", color=color, markersize=4)
        axis.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
        axis.set_title(f"{corpus}: test CER (%)", fontsize=10)
        axis.grid(axis="y", alpha=0.25, linewidth=0.6)
    FigureCanvasAgg(figure)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def draw_curves(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw what is known of each epoch; a dotted line is the guard's first alarm.

    Args:
        lines: Runs, a curve each.
        path: PNG file to write; a panel for each of `PANELS`.
    """
    figure = Figure((11.0, 3.4), layout="constrained")
    for axis, (key, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items()):
        for line, color in zip(lines, figures.COLORS):
            every, values = line["settings"]["num_iters_per_epoch"], line.get(key, [])
            batches = [every * epoch for epoch in range(1, len(values) + 1)]
            scale = 100 if "(%)" in title else 1
            values = [scale * value for value in values]
            axis.plot(batches, values, color=color, label=line["system"])
            for step in line["alarms"][:1]:
                axis.axvline(step, color=color, linestyle=":")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("mini-batches", fontsize=9)
        axis.grid(alpha=0.25, linewidth=0.6)
    handles, names = axis.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(lines))
    FigureCanvasAgg(figure)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw one of the plots."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("what", choices=["rates", "curves"], help="errors of systems, or over time")
    add("out", type=Path, help="PNG file to write")
    add("--corpus", nargs="+", help="corpora (default: all)")
    add("--only", nargs="+", help="systems, in this order (default: all)")
    add("--seeds", nargs="+", type=int, help="random seeds (default: all)")
    add("--phase", default="final", help="as in run_grid.py")
    add("--decoding", default="decode", help="as in run_grid.py")
    add("--lines", type=Path, default=LINES, help="file of lines")
    args = parser.parse_args(argv)
    runs = [
        line
        for line in select_lines(args.lines, phase=args.phase, decoding=args.decoding)
        if (args.corpus is None or line["corpus"] in args.corpus)
        and (args.only is None or line["system"] in args.only)
        and (args.seeds is None or line["seed"] in args.seeds)
    ]
    if not runs:
        sys.exit(f"error: {args.lines} has no such run")
    if args.only:
        runs.sort(key=lambda line: args.only.index(line["system"]))
    (draw_rates if args.what == "rates" else draw_curves)(runs, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
