"""The sections of the report, and the figures in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from espnet_softpl.commands.report import meaning
from espnet_softpl.commands.report.blocks import (
    Cell,
    Details,
    Paragraph,
    Picture,
    Section,
    Table,
)
from espnet_softpl.commands.report.experiment import Experiment, Level
from espnet_softpl.commands.report.figures import (
    Bar,
    Panel,
    color_of,
    draw_bars,
    draw_panels,
)
from espnet_softpl.commands.scoring import Score
from espnet_softpl.monitors.guard import MONITORS

NONE = "–"


SPACE = "\u00a0"  # Does not break a line.


ARROW = f"{SPACE}→{SPACE}"


VALIDATION = {
    "valid/cer_ctc": "validation CER, greedy CTC (%)",
    "valid/cer": "validation CER, decoder (%)",
    "valid/wer": "validation WER, decoder (%)",
    "valid/acc": "validation accuracy, decoder (%)",
    "valid/loss": "validation loss",
}


LOSSES = {
    "train/loss": "training loss",
    "train/loss_labeled": "loss on labeled data",
    "train/loss_pl": "loss on pseudo-labels",
    "valid/loss": "validation loss",
    "train/grad_norm": "gradient norm",
    "train/optim0_lr0": "learning rate",
}


QUALITY = ("pl_cer", "pl_wer", "pl_kept", "pl_kept_audio", "pl_kept_hours")


QUALITY += ("pl_wer_kept", "pl_wer_dropped", "pl_unusable")


DROPPED = "train/pl_dropped_"


CACHE = ("pl_age", "pl_uses", "pl_turnover", "pl_label_change")


MOST_ALARMS = 10  # Of one experiment, in full.


def mark(runs: Sequence[Experiment], run: Experiment) -> Cell:
    """Return the cell that names an experiment, with its color."""
    return Cell(run.name, color=color_of(runs.index(run)))


def percent(value: float) -> str:
    """Return a fraction in percent, with one decimal."""
    return f"{100.0 * value:.1f}"


def number(value: float) -> str:
    """Return a number with three digits, a dash where it is not known."""
    return f"{value:.3g}" if math.isfinite(value) else NONE


def course(run: Experiment, key: str, form: Callable[[float], str] = number) -> str:
    """Return a statistic's first and last value, "first → last"."""
    pair = run.first_and_last(key)
    if pair is None:
        return NONE
    return f"{form(pair[0])}{ARROW}{form(pair[1])}"


def count(items: Sequence[object], name: str) -> str:
    """Return how many there are, "1 alarm" or "2 alarms"."""
    return f"{len(items)} {name}" if len(items) == 1 else f"{len(items)} {name}s"


def clock(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def curves(
    runs: Sequence[Experiment],
    titles: Mapping[str, str],
    chosen: Sequence[Experiment] | None = None,
) -> list[Panel]:
    """Return one panel for each statistic that any experiment has reported.

    Args:
        runs: All experiments, whose order gives the colors.
        titles: Title by key of `history`; what it says is in percent is multiplied.
        chosen: Those to show; None for all.
    """
    panels = []
    for key, title in titles.items():
        panel, factor = Panel(title), 100.0 if "(%)" in title else 1.0
        for run in runs if chosen is None else chosen:
            color = color_of(runs.index(run))
            points = [(x, factor * y) for x, y in run.history.get(key, [])]
            panel.add(run.name, points, color)
        if panel.curves:
            panels.append(panel)
    return panels


def picture(
    out: Path, name: str, panels: Sequence[Panel], caption: str
) -> list[Picture | Paragraph]:
    """Draw panels, and return the block that shows them.

    Args:
        out: Directory of the page.
        name: The file's name without its end.
        panels: What to draw; where there is nothing, the block says so.
        caption: How to read it.
    """
    if not panels:
        return [Paragraph("Nothing has been reported yet.")]
    draw_panels(panels, out / f"{name}.png")
    names = list(dict.fromkeys(c.name for panel in panels for c in panel.curves))
    what = ", ".join(panel.title for panel in panels)
    alt = f"Curves over mini-batches of {', '.join(names)}: {what}"
    return [Picture(f"{name}.png", alt, caption)]


def moving(
    runs: Sequence[Experiment],
    titles: Mapping[str, str],
    out: Path,
    name: str,
    caption: str,
) -> list[Picture | Paragraph]:
    """Draw what changes, and say in words what is the same all the time.

    Args:
        runs: The experiments.
        titles: Title by key of `history`.
        out: Directory of the page.
        name: The file's name without its end.
        caption: How to read it.
    """
    panels = curves(runs, titles)
    still: dict[str, float] = {}
    for panel in panels:
        values = {value for curve in panel.curves for _, value in curve.points}
        if len(values) == 1:
            still[panel.title] = values.pop()
    blocks: list[Picture | Paragraph] = []
    drawn = [panel for panel in panels if panel.title not in still]
    if drawn or not panels:
        blocks += picture(out, name, drawn, caption)
    if still:
        words = ", ".join(f"{title}: {value:g}" for title, value in still.items())
        blocks.append(Paragraph(f"The same all the time: {words}."))
    return blocks


def summary(runs: Sequence[Experiment]) -> Section:
    """Return what there is, one row for each experiment, and what is missing."""
    head = ["experiment", "criterion", "teacher", "cache", "epochs", "mini-batches"]
    head += ["time", "best validation CER %", "alarms", "status"]
    rows = []
    for run in runs:
        conf = run.config
        criterion = str(conf.get("pl_criterion") or "supervised")
        teacher = str(conf.get("pl_teacher", NONE)) if run.pseudo_labels else NONE
        cache = str(conf.get("pl_cache", NONE)) if run.pseudo_labels else NONE
        errors = [v for _, v in _validation_error(run)]
        alarms = Cell(str(len(run.alarms)) if run.pseudo_labels else NONE)
        alarms.state = "bad" if run.alarms else ""
        most = conf.get("max_epoch")
        rows.append(
            [
                mark(runs, run),
                criterion,
                teacher,
                cache,
                f"{run.epochs}{SPACE}of{SPACE}{most}" if most else str(run.epochs),
                str(run.batches),
                clock(run.seconds),
                percent(min(errors)) if errors else NONE,
                alarms,
                run.status,
            ]
        )
    section = Section("summary", "Experiments")
    section.blocks.append(Table("One row for each experiment.", head, rows))
    for run in runs:
        section.blocks += [Paragraph(f"{run.name}: {note}") for note in run.notes]
    return section


def _validation_error(run: Experiment) -> list[tuple[int, float]]:
    """Return the validation CER of the CTC head, or of the decoder."""
    return run.history.get("valid/cer_ctc") or run.history.get("valid/cer") or []


def _with_interval(score: Score) -> Cell:
    half = (score.high - score.low) / 2
    note = f"{score.substitutions} S, {score.deletions} D, {score.insertions} I"
    return Cell(f"{score.rate:.1f}{SPACE}±{half:.1f}", note)


def error_rates(runs: Sequence[Experiment], out: Path) -> Section:
    """Return the error rates of what was decoded, and the validation curves."""
    section = Section("errors", "Error rates")
    decoded = [run for run in runs if run.decodings]
    if decoded:
        sets = list(dict.fromkeys(d.name for run in decoded for d in run.decodings))
        head = ["experiment", "decoding"]
        head += [f"{name} {unit} %" for name in sets for unit in ("CER", "WER")]
        section.blocks.append(
            Table(
                "Error rates in percent. After ± half the width of the 95 % confidence "
                "interval (bootstrap over utterances); S, D, I: substitutions, "
                "deletions, insertions. A space counts as a character.",
                head,
                [row for run in decoded for row in _error_rows(runs, run, sets)],
            )
        )
        draw_bars(_bars(runs), out / "error_rates.png")
        names = ", ".join(run.name for run in decoded)
        alt = f"Bars of CER and WER with intervals, by set, of {names}"
        section.blocks.append(Picture("error_rates.png", alt, meaning.READ_ERRORS))
    missing = [run.name for run in runs if not run.decodings]
    if missing:
        section.blocks.append(
            Paragraph(
                f"Nothing has been decoded yet of {', '.join(missing)}: what follows "
                f"are ESPnet's validation curves instead, which are no test results."
                if decoded
                else "Nothing has been decoded yet: what follows are ESPnet's "
                "validation curves instead, which are no test results."
            )
        )
    panels = curves(runs, VALIDATION)
    section.blocks += picture(out, "validation", panels, meaning.READ_VALIDATION)
    return section


def _error_rows(
    runs: Sequence[Experiment], run: Experiment, sets: Sequence[str]
) -> list[list[Cell | str]]:
    rows = []
    for tag in dict.fromkeys(decoding.tag for decoding in run.decodings):
        scores = {d.name: d.scores for d in run.decodings if d.tag == tag}
        row: list[Cell | str] = [mark(runs, run), tag]
        for name in sets:
            for unit in ("char", "word"):
                known = name in scores
                row.append(_with_interval(scores[name][unit]) if known else NONE)
        rows.append(row)
    return rows


def _bars(runs: Sequence[Experiment]) -> dict[str, dict[str, dict[str, Bar]]]:
    """Return the bars; of several decodings of one set, those of the last."""
    groups: dict[str, dict[str, dict[str, Bar]]] = {}
    for title, unit in (("CER", "char"), ("WER", "word")):
        groups[title] = {}
        for run in runs:
            scores = {d.name: d.scores[unit] for d in run.decodings}
            groups[title][run.name] = {
                name: Bar(found.rate, found.low, found.high)
                for name, found in scores.items()
            }
    return groups


def labels(runs: Sequence[Experiment], out: Path) -> Section:
    """Return the quality of the pseudo-labels, and what the filters dropped."""
    section = Section("labels", "Pseudo-labels")
    dropped = {k for run in runs for k in run.history if k.startswith(DROPPED)}
    section.blocks.append(_label_table(runs, sorted(dropped)))
    titles = {f"train/{key}": meaning.MEANING[key][0] for key in QUALITY}
    for key in sorted(dropped):
        titles[key] = f"labels dropped by {key.removeprefix(DROPPED)} (%)"
    section.blocks += moving(runs, titles, out, "pl_quality", meaning.READ_LABELS)
    return section


def _label_table(runs: Sequence[Experiment], dropped: Sequence[str]) -> Table:
    head = ["experiment", "CER %", "WER %", "WER % kept", "WER % dropped"]
    head += ["kept %", "kept audio %", "hours so far", "dropped % by filter"]
    head += ["unusable %"]
    rows = []
    for run in runs:
        if not run.pseudo_labels:
            continue
        filters = [
            f"{key.removeprefix(DROPPED)} {course(run, key, percent)}"
            for key in dropped
            if key in run.history
        ]
        hours = run.first_and_last("train/pl_kept_hours")
        shares = [
            course(run, f"train/pl_{key}", percent)
            for key in ("cer", "wer", "wer_kept", "wer_dropped", "kept", "kept_audio")
        ]
        rows.append(
            [
                mark(runs, run),
                *shares,
                NONE if hours is None else f"{hours[1]:.2f}",
                ", ".join(filters) or NONE,
                course(run, "train/pl_unusable", percent),
            ]
        )
    caption = "First epoch → last epoch. Error rates need true transcripts "
    caption += "(unlabeled_oracle_text), which no loss ever sees."
    return Table(caption, head, rows)


def monitors(runs: Sequence[Experiment], out: Path) -> Section:
    """Return what the collapse guard watches, with its limits and its alarms."""
    section = Section("collapse", "Collapse monitors")
    learning = [run for run in runs if run.pseudo_labels]
    panels = []
    for monitor in MONITORS:
        panel = Panel(meaning.MEANING[monitor][0])
        for run in learning:
            color = color_of(runs.index(run))
            panel.add(run.name, run.history.get(f"train/{monitor}", []), color)
            level = run.levels.get(monitor)
            if level is not None:
                panel.levels += [
                    (level.seed, color, "-."),
                    (level.low, color, "--"),
                    (level.high, color, "--"),
                ]
            panel.marks += [(alarm.step, color) for alarm in run.alarms]
        if panel.curves:
            panels.append(panel)
    section.blocks += picture(out, "collapse", panels, meaning.READ_MONITORS)
    known = [run for run in learning if run.levels]
    if known:
        section.blocks.append(_level_table(runs, known))
    for run in learning:
        if not run.alarms:
            continue
        text = f"{run.name}: {count(run.alarms, 'alarm')}"
        if len(run.alarms) > MOST_ALARMS:
            text += f", the last {MOST_ALARMS} of them below"
        section.blocks.append(Paragraph(f"{text}.", state="bad"))
        for alarm in run.alarms[-MOST_ALARMS:]:
            title, _, rest = alarm.text.partition("\n")
            section.blocks.append(Details(title or f"step {alarm.step}", rest))
    if known and not any(run.alarms for run in learning):
        section.blocks.append(Paragraph("The guard has raised no alarm."))
    return section


def _level_table(runs: Sequence[Experiment], known: Sequence[Experiment]) -> Table:
    """Return the table of monitors: one column for each experiment."""

    def cell(level: Level) -> Cell:
        if math.isnan(level.now):
            return Cell(NONE, "not known yet: the seed model's level comes first")
        legal = [
            f"{word} {number(bound)}"
            for word, bound in (("from", level.low), ("to", level.high))
            if math.isfinite(bound)
        ]
        state = "bad" if level.beyond else "good"
        note = ("legal " + " ".join(legal)) if legal else "no limit"
        if level.beyond:
            note = f"BEYOND ITS LIMIT, {note}"
        return Cell(f"{number(level.seed)}{ARROW}{number(level.now)}", note, state)

    rows = []
    for monitor in MONITORS:
        what, worry = meaning.MEANING[monitor]
        cells = [cell(run.levels[monitor]) for run in known]
        rows.append([Cell(monitor, what), worry, *cells])
    head = ["monitor", "worry when", *(run.name for run in known)]
    return Table(
        "Seed model → now, as the guard's moving average has it at the end of the last "
        "saved epoch, and the levels that are legal.",
        head,
        rows,
    )


def losses(runs: Sequence[Experiment], out: Path) -> Section:
    """Return the losses and the learning rate."""
    section = Section("losses", "Losses and learning rate")
    panels = curves(runs, LOSSES)
    section.blocks += picture(out, "losses", panels, meaning.READ_LOSSES)
    return section


def schedule(runs: Sequence[Experiment], out: Path) -> Section:
    """Return how labeled and unlabeled mini-batches alternate, and their weight."""
    section = Section("schedule", "Schedule")
    head = ["experiment", "labeled : unlabeled", "from mini-batch", "weight (lambda)"]
    head += ["ramp", "dropout before → in PL", "optimizer steps"]
    rows = []
    for run in runs:
        steps = str(run.batches // int(run.config.get("accum_grad") or 1))
        dropout = run.conf("encoder_conf").get("dropout_rate", NONE)
        if not run.pseudo_labels:
            row = ["1 : 0", NONE, NONE, NONE, str(dropout), steps]
        else:
            plan = run.conf("pl_schedule_conf")
            ratio = (plan.get("labeled_steps", 1), plan.get("unlabeled_steps", 1))
            row = [
                f"{ratio[0]} : {ratio[1]}",
                str(plan.get("start_step", 0)),
                str(plan.get("weight", 1.0)),
                str(plan.get("ramp_steps", 0)),
                f"{dropout}{ARROW}{plan.get('dropout', dropout)}",
                steps,
            ]
        rows.append([mark(runs, run), *row])
    caption = "Ramps and starts in mini-batches; no weight is an experiment without PL."
    section.blocks.append(Table(caption, head, rows))
    titles = {"train/pl_weight": meaning.MEANING["pl_weight"][0]}
    section.blocks += moving(runs, titles, out, "schedule", meaning.READ_SCHEDULE)
    return section


def cache(runs: Sequence[Experiment], out: Path) -> Section:
    """Return the age of the labels, and the turnover of the cache."""
    section = Section("cache", "Label cache")
    cached = [run for run in runs if "train/pl_uses" in run.history]
    if not cached:
        section.blocks.append(
            Paragraph(
                "No experiment keeps labels: each is made anew for its mini-batch."
            )
        )
        return section
    head = ["experiment", "cache", "size", "age", "uses", "turnover", "label change"]
    rows = []
    for run in cached:
        size = str(run.conf("pl_cache_conf").get("size", "default"))
        values = [course(run, f"train/{key}") for key in CACHE]
        rows.append([mark(runs, run), str(run.config.get("pl_cache")), size, *values])
    caption = "First epoch → last epoch. Size in mini-batches, age in mini-batches."
    section.blocks.append(Table(caption, head, rows))
    titles = {f"train/{key}": meaning.MEANING[key][0] for key in CACHE}
    panels = curves(runs, titles, cached)  # Elsewhere the age is 0.
    section.blocks += picture(out, "cache", panels, meaning.READ_CACHE)
    return section
