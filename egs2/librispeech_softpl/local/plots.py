"""Plots of training curves, pseudo-label quality, collapse monitors and error rates."""

from __future__ import annotations

from pathlib import Path

from runs import Run

from espnet_softpl.commands.report.figures import (
    Bar,
    Panel,
    color_of,
    draw_bars,
    draw_panels,
)

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


def plot_curves(runs: list[Run], curves: dict[str, str], path: Path) -> None:
    """Draw statistics over training, one panel each and one line per run.

    Args:
        runs: The runs; those without a statistic are left out of its panel.
        curves: Title by statistic.
        path: PNG file to write.
    """
    systems = list(dict.fromkeys(run.system for run in runs))
    panels = []
    for key, title in curves.items():
        panel = Panel(title)
        for run in runs:
            color = color_of(systems.index(run.system))
            panel.add(run.system, run.history.get(key, []), color)
        panels.append(panel)
    draw_panels(panels, path)


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
    groups: dict[str, dict[str, dict[str, Bar]]] = {"CER": {}, "WER": {}}
    for unit, title in (("char", "CER"), ("word", "WER")):
        for system in systems:
            group = [run for run in scored if run.system == system]
            groups[title][system] = {}
            for name in scored[0].scores:
                found = [run.scores[name][unit] for run in group]
                rates = [item.rate for item in found]
                low, high = min(rates), max(rates)
                if len(found) == 1:
                    low, high = found[0].low, found[0].high
                groups[title][system][name] = Bar(sum(rates) / len(rates), low, high)
    draw_bars(groups, path)


def plot_all(runs: list[Run], out: Path) -> None:
    """Write all plots.

    Args:
        runs: The runs; at least one has scores.
        out: Directory for the PNG files.
    """
    for name, curves in FIGURES.items():
        plot_curves(runs, curves, out / f"{name}.png")
    plot_error_rates(runs, out / "error_rates.png")
