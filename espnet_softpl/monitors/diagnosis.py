"""What an alarm of the guard means, in words, and a report on disk with the batch."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from espnet_softpl.core.files import read_yaml, save_atomically
from espnet_softpl.labels.pseudo_label import PseudoLabel
from espnet_softpl.monitors.guard import GUARDED, MONITORS, Alarm, Guard


class Form(NamedTuple):
    """A form of collapse."""

    title: str
    meaning: str  # What is seen.
    causes: list[str]  # "why -> which YAML keys to change", the likeliest first.


_TEXTS = read_yaml(Path(__file__).with_name("forms.yaml"))
FORMS = {name: Form(**texts) for name, texts in _TEXTS.items()}
# The form that a monitor beyond a limit of one side is a sign of.
SIGNS: dict[tuple[str, str], str] = {
    (statistic.name, side): form
    for statistic, (_, *forms) in GUARDED.items()
    for side, form in zip(("low", "high"), forms)
    if form
}


def diagnose(alarm: Alarm) -> tuple[str, ...]:
    """Name the `FORMS`, if any, that an alarm has signs of, the most specific first."""
    signs = {SIGNS.get((each.monitor, each.side), each.side) for each in alarm.breaches}
    return tuple(form for form in FORMS if form in signs)


def explain(alarm: Alarm) -> str:
    """Explain an alarm in some lines: the numbers, the form, causes and changes."""
    forms = diagnose(alarm)
    titles = ", ".join(FORMS[form].title for form in forms) or "a limit is broken"
    lines = [f"Collapse guard: alarm {alarm.number} at step {alarm.step}: {titles}."]
    for breach in alarm.breaches:
        lines.append(
            f"  {breach.monitor}: {breach.level:.3g} now, {breach.reference:.3g} with "
            f"the base model; limit {breach.limit}"
        )
    if forms:
        form = FORMS[forms[0]]
        lines += [form.meaning, "Likely causes, and what to change:"]
        for number, cause in enumerate(form.causes, 1):
            why, change = cause.split(" -> ")
            lines += [f"  {number}. {why}", f"     -> {change}"]
    if alarm.breaches[0].side != "infinite":
        lines.append(
            "If such levels are healthy here, move the limit: pl_guard_conf.limits."
            f"{alarm.breaches[0].monitor}."
        )
    return "\n".join(lines)


def write_report(
    directory: Path,
    alarm: Alarm,
    guard: Guard,
    label: PseudoLabel,
    utterance_ids: Sequence[str],
) -> Path:
    """Write `report.txt`, `batch.pt` and, with matplotlib, `monitors.png`.

    The directory, `directory/step<N>`, appears when complete; one left by a run that
    was resumed is replaced. Only one process may write.
    """
    target = Path(directory) / f"step{alarm.step}"
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    # Copied: a view would drag its whole storage into the file.
    names = ("log_probs", "lengths", "tokens", "token_lengths", "weight")
    batch = {name: getattr(label, name).detach().cpu().clone() for name in names}
    batch["log_probs"] = batch["log_probs"].to(torch.float16)
    batch["utterance_ids"] = list(map(str, utterance_ids))
    save_atomically(batch, temporary / "batch.pt")
    plotted = _plot(guard, alarm.step, temporary / "monitors.png")
    text = _report_text(alarm, guard, plotted)
    (temporary / "report.txt").write_text(text, encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    return target


def _report_text(alarm: Alarm, guard: Guard, plotted: bool) -> str:
    """Write the explanation, a table of all monitors and the other files' names."""
    lines = [
        explain(alarm),
        "",
        f"{'monitor':24}{'now':>10}{'base model':>12}  allowed",
    ]
    for name in MONITORS:
        sides = zip(("from", "to"), guard.bounds(name))
        allowed = [
            f"{word} {level:.3g}" for word, level in sides if math.isfinite(level)
        ]
        levels = f"{guard.level(name):10.3g}{guard.reference(name):12.3g}"
        lines.append(f"{name:24}{levels}  {' '.join(allowed)}")
    plot = "No plot: matplotlib is not installed (pip install matplotlib)."
    if plotted:
        plot = "monitors.png: the monitors of the latest unlabeled batches, with limits"
    batch = "batch.pt: names, log-posteriors and labels of the batch at this step"
    return "\n".join([*lines, "", plot, batch, ""])


def _plot(guard: Guard, step: int, path: Path) -> bool:
    """Draw one panel for each monitor; return False if matplotlib is missing."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(12.0, 5.6))
    # Margins that are given take half of the time of those that are found.
    figure.subplots_adjust(0.05, 0.11, 0.985, 0.95, wspace=0.25, hspace=0.3)
    FigureCanvasAgg(figure)
    steps, values = guard.history()
    for axis, name in zip(figure.subplots(2, 4).flat, MONITORS):
        axis.plot(steps, values[name], ".-", color="C0", linewidth=0.6, markersize=2)
        axis.axhline(guard.reference(name), color="black", linewidth=0.8)
        for level in filter(math.isfinite, guard.bounds(name)):
            axis.axhline(level, color="C3", linestyle="--", linewidth=0.8)
        axis.axvline(step, color="C1", linewidth=1.0)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
    figure.supxlabel(
        "step (black: base model, dashed: limits, orange: alarm)", fontsize=9
    )
    figure.savefig(path, format="png", dpi=100)
    return True
