"""What an alarm of the guard means, in words, and a report on disk with the batch."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from espnet_softpl.labels.pseudo_label import PseudoLabel
from espnet_softpl.monitors.guard import GUARDED, MONITORS, Alarm, Guard


class Form(NamedTuple):
    """A form of collapse."""

    title: str
    meaning: str  # What is seen.
    causes: tuple[str, ...]  # "why -> which YAML keys to change", the likeliest first.


_WEAK_BASE_MODEL = (
    "The base model is too weak: its labels of this audio are mostly wrong, and hard "
    "labels fail with them as soft ones do. -> a stronger base model for --init_param, "
    "or a later pl_schedule_conf.start_step."
)
_FEW_LABELED = (
    "Too few labeled batches: they alone oppose the drift. -> pl_schedule_conf: more "
    "labeled_steps, fewer unlabeled_steps, a lower weight, longer ramp_steps."
)
_FAST_TEACHER = (
    "The teacher follows the student too fast and passes its errors on; a teacher that "
    "is the student is the worst. -> pl_teacher: ema with a pl_teacher_conf.decay "
    "closer to 1 or a longer half_life_steps; pl_teacher: frozen cannot collapse."
)

# The most specific first: nearly every collapse lowers the mutual information too.
FORMS: dict[str, Form] = {
    "infinite": Form(
        "the numbers are broken",
        "A weight, or every label of a mini-batch, is no finite number.",
        (
            "Training has diverged. -> a lower optim_conf.lr, a lower grad_clip.",
            "Half precision overflows. -> use_amp: false.",
            "The unlabeled loss is too large at the start. -> pl_schedule_conf: a "
            "lower weight, longer ramp_steps.",
        ),
    ),
    "all_blank": Form(
        "the transcripts vanish",
        "Blank takes over, and transcripts become short or empty.",
        (
            "Empty and very short transcripts teach blank at every frame, which makes "
            "more of them. -> pl_filter: tokens with a higher "
            "pl_filter_conf.min_tokens, at least 1; pl_regularizer: prior_kl.",
            _WEAK_BASE_MODEL,
            _FEW_LABELED,
        ),
    ),
    "flattening": Form(
        "the labels flatten",
        "Frames lose their best token: entropy rises, blank loses frames, stray "
        "tokens appear.",
        (
            "Plain frame-level soft labels: every bit of doubt in the teacher is "
            "learned, and nothing in the loss takes it back. -> pl_criterion: "
            "hard_ctc, nbest_ctc or soft_ctc in place of soft_ce, or blend with one "
            "of them; or pl_shaping: sharpen.",
            _FEW_LABELED,
            _FAST_TEACHER,
        ),
    ),
    "few_tokens": Form(
        "few tokens are left",
        "Transcripts are made of ever fewer different tokens.",
        (
            "Labels favor frequent tokens, and nothing holds the mix of tokens. -> "
            "pl_regularizer: prior_kl or mean_entropy.",
            _WEAK_BASE_MODEL,
            _FEW_LABELED,
        ),
    ),
    "constant": Form(
        "all frames become alike",
        "Every frame comes to have the same distribution, sharp or flat.",
        (
            "One distribution at every frame satisfies frame-level soft labels: if "
            "teacher and student share it, their loss has no gradient. -> "
            "pl_criterion: hard_ctc, nbest_ctc or soft_ctc in place of soft_ce, or "
            "blend with one of them; or pl_regularizer: mean_entropy or prior_kl.",
            _FEW_LABELED,
            _FAST_TEACHER,
        ),
    ),
    "drift": Form(
        "teacher and student drift apart",
        "Their best tokens differ at more and more frames.",
        (
            "The student is thrown off by the unlabeled loss. -> pl_schedule_conf: a "
            "lower weight, longer ramp_steps, more labeled_steps.",
            "The teacher has been left behind by a better student (the labeled "
            "validation error goes on falling): no collapse. -> pl_teacher: ema with "
            "a lower pl_teacher_conf.decay or a shorter half_life_steps.",
            _WEAK_BASE_MODEL,
        ),
    ),
}

# The form that a monitor beyond a limit of one side is a sign of.
SIGNS: dict[tuple[str, str], str] = {
    (statistic.name, side): form
    for statistic, (_, *forms) in GUARDED.items()
    for side, form in zip(("low", "high"), forms)
    if form
}


def diagnose(alarm: Alarm) -> tuple[str, ...]:
    """Name the `FORMS` that an alarm has signs of, the most specific first.

    There is none if only limits of one's own are broken, which no form breaks.
    """
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
    torch.save(batch, temporary / "batch.pt")
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
