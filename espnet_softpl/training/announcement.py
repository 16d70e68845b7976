"""What a training says before its first mini-batch: how pseudo-labeling is on."""

from __future__ import annotations

import inspect
import math
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_softpl import cache, criteria, filters, regularizers, shaping, teacher
from espnet_softpl.core.registry import Registry, named_confs
from espnet_softpl.monitors import guard
from espnet_softpl.training.config import PLConfig
from espnet_softpl.training.resume.layout import read_statistics

# From this CER on labels confirm the errors of the base model (docs/choose.md).
DOUBTFUL = 0.4


def announce(
    config: PLConfig,
    mini_batches: int,
    unlabeled_pass: int,
    utterances: int,
    hours: float,
) -> str:
    """Say in some ten lines what pseudo-labeling will do in this training.

    Args:
        config: The settings.
        mini_batches: Of both kinds, all epochs.
        unlabeled_pass: Mini-batches of one pass over the unlabeled audio.
        utterances: Unlabeled ones.
        hours: Of unlabeled audio; NaN if it is not known.
    """
    args, schedule = config.args, config.schedule
    rows = {
        module.REGISTRY.key.removeprefix("pl_"): _parts(args, module.REGISTRY)
        for module in (criteria, teacher, shaping, regularizers, filters, cache, guard)
    }
    rows["teacher"] += _half_life(config.teacher)
    in_hours = "" if math.isnan(hours) else f", {hours:.3g} h"
    passes = schedule.unlabeled_before(args.seed, mini_batches) / unlabeled_pass
    rows["unlabeled"] = (
        f"{utterances} utterances{in_hours}; a pass takes {unlabeled_pass} "
        f"mini-batches, the run makes {passes:.1f} passes"
    )
    rows["schedule"] = (
        f"{schedule.labeled_steps} labeled : {schedule.unlabeled_steps} unlabeled from "
        f"mini-batch {schedule.start_step} on, {schedule.form}; lambda "
        f"{schedule.weight}"
    )
    updates = schedule.updates(mini_batches, args.accum_grad)
    rows["run"] = f"{mini_batches} mini-batches, {updates} updates"
    rate = (args.optim_conf or {}).get("lr", "its default")
    rows["optimizer"] = f"{args.optim}, learning rate {rate}"
    if args.scheduler:
        rows["optimizer"] += f", {args.scheduler}{_listed(args.scheduler_conf or {})}"
    said = [(name, words) for name, words in rows.items() if words]
    said += [("base model", judge_base(value)) for value in args.init_param]
    lines = [f"  {name:<11} {words}" for name, words in said]
    return "\n".join(["Pseudo-labeling is on", *lines])


def _parts(args: Namespace, registry: Registry[Any]) -> str:
    """Name the parts of a YAML key, each with what is set and its other defaults."""
    names = getattr(args, registry.key)
    if not names or names == "none":
        return ""
    conf = getattr(args, f"{registry.key}_conf")
    parts = []
    for name, settings in named_confs(registry.key, names, conf).items():
        parameters = inspect.signature(registry.get_class(name)).parameters
        defaults = {
            key: parameter.default
            for key, parameter in parameters.items()
            if key not in settings and parameter.default not in (None, parameter.empty)
        }
        parts.append(f"{name}{_listed({**settings, **defaults})}")
    return "; ".join(parts)


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


def judge_base(value: str) -> str:
    """Name the base model of an `init_param`, and tell whether it is good enough."""
    best = best_dev_cer(Path(value.partition(":")[0]).parent)
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
    rates = [
        float(epoch["valid"]["cer_ctc"])
        for epoch in read_statistics(exp_dir).values()
        if "cer_ctc" in epoch.get("valid", {})
    ]
    return min(rates, default=math.nan)
