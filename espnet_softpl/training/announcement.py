"""What a training says before its first mini-batch: how pseudo-labeling is on."""

from __future__ import annotations

import inspect
import math
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from espnet_softpl import cache, criteria, filters, regularizers, shaping, teacher
from espnet_softpl.core.registry import Registry, named_confs
from espnet_softpl.monitors import guard
from espnet_softpl.training.config import PLConfig
from espnet_softpl.training.resume.layout import read_statistics

# From this CER on labels confirm the errors of the base model (docs/choose.md).
DOUBTFUL = 0.4


class Run(NamedTuple):
    """The size of a training."""

    mini_batches: int  # Of both kinds, all epochs.
    unlabeled_pass: int  # Mini-batches of one pass over the unlabeled audio.
    utterances: int  # Unlabeled ones.
    hours: float  # Of unlabeled audio; NaN if it is not known.


def announce(config: PLConfig, run: Run) -> str:
    """Say in some ten lines what pseudo-labeling will do in this training."""
    args, schedule = config.args, config.schedule
    updates = schedule.updates(run.mini_batches, args.accum_grad)
    rows = [("criterion", _parts(args, criteria.REGISTRY))]
    rows += [("teacher", _parts(args, teacher.REGISTRY) + _half_life(config.teacher))]
    for registry in (shaping.REGISTRY, regularizers.REGISTRY, filters.REGISTRY):
        rows += [(registry.key.removeprefix("pl_"), _parts(args, registry))]
    rows += [("cache", _parts(args, cache.REGISTRY))]
    rows += [("guard", _parts(args, guard.REGISTRY))]
    drawn = schedule.unlabeled_before(args.seed, run.mini_batches)
    rows += [
        (
            "unlabeled",
            f"{run.utterances} utterances{_in_hours(run.hours)}; a pass takes "
            f"{run.unlabeled_pass} mini-batches, the run makes "
            f"{drawn / run.unlabeled_pass:.1f} passes",
        ),
        (
            "schedule",
            f"{schedule.labeled_steps} labeled : {schedule.unlabeled_steps} unlabeled "
            f"from mini-batch {schedule.start_step} on, {schedule.form}; lambda "
            f"{schedule.weight}",
        ),
        ("run", f"{run.mini_batches} mini-batches, {updates} updates"),
        ("optimizer", _optimizer(args)),
    ]
    rows += [("base model", judge_base(value)) for value in args.init_param]
    lines = [f"  {name:<11} {words}" for name, words in rows if words]
    return "\n".join(["Pseudo-labeling is on", *lines])


def _parts(args: Namespace, registry: Registry[Any]) -> str:
    """Name the parts of a YAML key, each with all of its settings."""
    names = getattr(args, registry.key)
    if not names or names == "none":
        return ""
    conf = getattr(args, f"{registry.key}_conf")
    named = named_confs(registry.key, names, conf)
    return "; ".join(
        f"{name}{_settings(registry.get_class(name), settings)}"
        for name, settings in named.items()
    )


def _settings(factory: Callable[..., Any], conf: Mapping[str, Any]) -> str:
    """List what is set, and the defaults of the rest that are not None."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(factory).parameters.items()
        if parameter.default not in (None, parameter.empty)
    }
    return _listed({**conf, **{k: v for k, v in defaults.items() if k not in conf}})


def _listed(settings: Mapping[str, Any]) -> str:
    words = ", ".join(f"{name} {value}" for name, value in settings.items())
    return f" ({words})" if words else ""


def _half_life(part: teacher.Teacher) -> str:
    """Say after how many updates half of an average is new."""
    decay = getattr(part, "decay", None)
    if decay is None or not 0.0 < decay < 1.0:
        return ""
    every = getattr(part, "every_steps", 1)
    return f"; a half-life of {every * math.log(0.5) / math.log(decay):.0f} updates"


def _in_hours(hours: float) -> str:
    return "" if math.isnan(hours) else f", {hours:.3g} h"


def _optimizer(args: Namespace) -> str:
    rate = (args.optim_conf or {}).get("lr", "its default")
    words = f"{args.optim}, learning rate {rate}"
    if args.scheduler:
        words += f", {args.scheduler}{_listed(args.scheduler_conf or {})}"
    return words


def judge_base(value: str) -> str:
    """Name the base model of an `init_param`, and tell whether it is good enough."""
    file = Path(value.partition(":")[0])
    best = best_dev_cer(file.parent)
    if math.isnan(best):
        return f"{value}; its dev CER is not known"
    words = f"{value}; its best epoch has {best:.1%} dev CER (cer_ctc)"
    if best < DOUBTFUL:
        return words
    return (
        f"{words}. Think twice: with so many errors labels confirm them. A better base "
        "model comes first (docs/choose.md)"
    )


def best_dev_cer(exp_dir: Path) -> float:
    """Return the lowest `cer_ctc` of an experiment's epochs on its dev set, or NaN."""
    found = [
        epoch["valid"]["cer_ctc"]
        for epoch in read_statistics(exp_dir).values()
        if "cer_ctc" in epoch.get("valid", {})
    ]
    return min(map(float, found), default=math.nan)
