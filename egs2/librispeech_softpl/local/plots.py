"""Plots of training curves, pseudo-label quality, collapse monitors and error rates."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from runs import Run  # noqa: E402

FIGURES = {
    "losses": {
        "train/loss": "loss",
        "train/loss_labeled": "loss on labeled",
        "train/loss_pl": "loss on pseudo-labels",
        "valid/loss": "validation loss",
    },
    "pl_quality": {
        "train/pl_cer": "pseudo-label CER",
        "train/pl_wer": "pseudo-label WER",
        "valid/cer_ctc": "validation CER",
    },
    "collapse": {
        "train/pl_blank_share": "share of blank frames",
        "train/pl_frame_entropy": "mean entropy of a frame (nats)",
        "train/pl_mean_entropy": "entropy of the mean frame (nats)",
        "train/pl_mutual_information": "mutual information (nats)",
        "train/pl_length_ratio": "length ratio of the labels",
        "train/pl_empty_share": "share of empty labels",
    },
}


def save(figure: plt.Figure, path: Path) -> None:
    """Write a figure as PNG; it appears under its name only when complete.

    Args:
        figure: The figure; it is closed.
        path: File to write.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)
    os.replace(temporary, path)


def plot_curves(runs: list[Run], curves: dict[str, str], path: Path) -> None:
    """Draw statistics over training, one panel each and one line per run.

    Args:
        runs: The runs; those without a statistic are left out of its panel.
        curves: Title by statistic.
        path: PNG file to write.
    """
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 3.2 * rows), squeeze=False
    )
    systems = list(dict.fromkeys(run.system for run in runs))
    for axis in axes.flat[len(curves) :]:
        axis.set_visible(False)
    for axis, (key, title) in zip(axes.flat, curves.items()):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("mini-batches", fontsize=8)
        axis.tick_params(labelsize=8)
        named: set[str] = set()
        for run in runs:
            if run.history.get(key):
                steps, values = zip(*run.history[key])
                label = None if run.system in named else run.system
                named.add(run.system)
                color = f"C{systems.index(run.system) % 10}"
                axis.plot(steps, values, color=color, label=label, linewidth=1.2)
        if named:
            axis.legend(fontsize=8)
        else:
            axis.text(0.5, 0.5, "no data", ha="center", transform=axis.transAxes)
    figure.tight_layout()
    save(figure, path)


def plot_error_rates(runs: list[Run], path: Path) -> None:
    """Draw error rates by system: CER and WER, one group of bars per set.

    The bar is the mean over seeds. The line on it is the 95 % confidence interval of
    a single seed, or the range of several.

    Args:
        runs: The runs; those without scores are left out.
        path: PNG file to write.
    """
    scored = [run for run in runs if run.scores]
    systems = list(dict.fromkeys(run.system for run in scored))
    sets = list(scored[0].scores)
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8))
    width = 0.8 / len(systems)
    for axis, unit, title in zip(axes, ("char", "word"), ("CER", "WER")):
        for index, system in enumerate(systems):
            group = [run for run in scored if run.system == system]
            heights, below, above = [], [], []
            for name in sets:
                found = [run.scores[name][unit] for run in group]
                rates = [item.rate for item in found]
                low, high = min(rates), max(rates)
                if len(found) == 1:
                    low, high = found[0].low, found[0].high
                heights.append(sum(rates) / len(rates))
                below.append(max(0.0, heights[-1] - low))
                above.append(max(0.0, high - heights[-1]))
            places = [place + index * width for place in range(len(sets))]
            axis.bar(
                places, heights, width, yerr=[below, above], capsize=3, label=system
            )
        axis.set_xticks([place + 0.4 - width / 2 for place in range(len(sets))], sets)
        axis.set_title(f"{title} (%)", fontsize=10)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, ncols=6, loc="upper center")
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    save(figure, path)


def plot_all(runs: list[Run], out: Path) -> None:
    """Write all plots.

    Args:
        runs: The runs; at least one has scores.
        out: Directory for the PNG files.
    """
    for name, curves in FIGURES.items():
        plot_curves(runs, curves, out / f"{name}.png")
    plot_error_rates(runs, out / "error_rates.png")
