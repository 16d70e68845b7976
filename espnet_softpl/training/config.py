"""The settings of pseudo-labeling, read from ESPnet's options once."""

from __future__ import annotations

import copy
import dataclasses
import functools
from argparse import Namespace
from pathlib import Path
from typing import Any, TypeVar

from espnet_softpl import cache, criteria, filters, regularizers, shaping, teacher
from espnet_softpl.core.errors import UserError, no_file
from espnet_softpl.core.ranges import at_least, fraction
from espnet_softpl.core.registry import Registry, build_from_conf, named_confs
from espnet_softpl.labels.forms import LabelForms
from espnet_softpl.labels.token_lm import read_lm
from espnet_softpl.monitors import guard
from espnet_softpl.training.schedule import Schedule, Scheduled, nested

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class PLConfig:
    """What the `pl_*` options of one training say, and the parts that they name.

    Each part has checked its own settings; `training.checks` refuses what does not fit
    together. The parts keep state: two models need two of these.
    """

    args: Namespace  # All options, ESPnet's and ours.
    criterion: Scheduled[criteria.PLCriterion]
    regularizers: tuple[Scheduled[criteria.PLCriterion], ...]  # Added to the criterion.
    shaping: tuple[Scheduled[shaping.Shaping], ...]  # Of the teacher's label, in order.
    filters: tuple[tuple[str, filters.Filter], ...]  # By name, in order.
    teacher: teacher.Teacher
    cache: cache.CacheSettings | None
    guard: guard.Guard | None
    forms: LabelForms  # Who learns from a label beside the last layer's CTC.
    schedule: Schedule

    @classmethod
    def from_args(cls, args: Namespace) -> PLConfig:
        """Build the parts that options name, or raise a `UserError` with the key.

        A setting `lm` of a criterion or shaping, of your own too, is an ARPA file,
        which is read here; `args` get its whole path.
        """
        try:
            fraction("pl_max_bad_share:", args.pl_max_bad_share)
            at_least("pl_samples:", args.pl_samples, 0)
            for name in ("batch_bins", "batch_size", "shards"):
                value = getattr(args, f"unlabeled_{name}")
                at_least(f"unlabeled_{name}:", 1 if value is None else value, 1)
            forms = LabelForms(decoder=args.pl_decoder, layers=args.pl_interctc)
        except ValueError as error:
            raise UserError(str(error)) from error
        schedule = build_from_conf(Schedule, args.pl_schedule_conf, "pl_schedule_conf")
        return cls(
            args=args,
            criterion=_scheduled(criteria.REGISTRY, args)[0],
            regularizers=_scheduled(regularizers.REGISTRY, args),
            shaping=_scheduled(shaping.REGISTRY, args),
            filters=build_filters(args),
            teacher=_build_teacher(args, schedule),
            cache=cache.build(args.pl_cache, **args.pl_cache_conf),
            guard=guard.build(args.pl_guard, **args.pl_guard_conf),
            forms=forms,
            schedule=schedule,
        )

    @property
    def needs_posteriors(self) -> bool:
        """Whether criterion or regularizers ever look at the posteriors of labels."""
        parts = (self.criterion, *self.regularizers)
        return any(part.ever("needs_posteriors") for part in parts)

    @property
    def needs_labeled(self) -> bool:
        """Whether any part ever counts or learns something on labeled mini-batches."""
        losses = (self.criterion, *self.regularizers)
        return (
            any(part.ever("needs_prior") for part in (*losses, *self.shaping))
            or any(part.ever("labeled_weight") for part in losses)
            or any(part.needs_labeled for _, part in self.filters)
        )


def build_filters(args: Namespace) -> tuple[tuple[str, filters.Filter], ...]:
    """Build the filters of `pl_filter` by name; a user's own has its class's name."""
    confs = named_confs("pl_filter", args.pl_filter, args.pl_filter_conf)
    return tuple(
        (name.rpartition(":")[2], filters.build(name, **settings))
        for name, settings in confs.items()
    )


def _scheduled(registry: Registry[T], args: Namespace) -> tuple[Scheduled[T], ...]:
    """Build the parts that a key names; their settings may be ramps."""
    key = f"{registry.key}_conf"
    conf = _read_lms(args, key)
    try:
        return tuple(
            Scheduled(functools.partial(registry.build, name), settings)
            for name, settings in named_confs(
                registry.key, getattr(args, registry.key), conf
            ).items()
        )
    except UserError:
        raise
    except ValueError as error:  # A ramp that is none: it does not know its key.
        raise UserError(f"{key}: {error}") from error


def _read_lms(args: Namespace, key: str) -> dict[str, Any]:
    """Return settings with the ARPA files that they name read.

    A path may start beside the token list. It is completed in the options, which are
    written to config.yaml, and which a resumed run is held to.
    """
    conf = copy.deepcopy(getattr(args, key))
    for settings in _with_lm(conf):
        if not Path(settings["lm"]).exists() and isinstance(args.token_list, str):
            beside = Path(args.token_list).parent / settings["lm"]
            settings["lm"] = str(beside) if beside.exists() else settings["lm"]
    setattr(args, key, copy.deepcopy(conf))
    for settings in _with_lm(conf):
        try:
            settings["lm"] = read_lm(settings["lm"], read_token_list(args))
        except UserError as error:
            raise UserError(f"{key}.{error}") from error
    return conf


def _with_lm(conf: Any) -> list[dict[str, Any]]:
    """List the settings, at any depth, whose `lm` is a word."""
    settings = [part for part in nested(conf) if isinstance(part, dict)]
    return [each for each in settings if isinstance(each.get("lm"), str)]


def _build_teacher(args: Namespace, schedule: Schedule) -> teacher.Teacher:
    """Build the teacher, with the run's steps per epoch if it counts in epochs."""
    conf = dict(args.pl_teacher_conf)
    if "retention" in conf and "steps_per_epoch" not in conf:
        if not args.num_iters_per_epoch:
            raise UserError(
                "pl_teacher_conf.retention: is a share per epoch, and the length of "
                "an epoch is not known; set num_iters_per_epoch, or "
                "pl_teacher_conf.steps_per_epoch (optimizer steps)"
            )
        conf["steps_per_epoch"] = schedule.updates(
            args.num_iters_per_epoch, args.accum_grad
        )
    return teacher.build(args.pl_teacher, **conf)


def read_token_list(args: Namespace) -> list[str]:
    """Return the tokens, from a file or from a configuration that holds them."""
    if not isinstance(args.token_list, str):
        return list(args.token_list)
    if not Path(args.token_list).is_file():
        raise UserError(f"token_list: {no_file(args.token_list)}")
    try:
        with open(args.token_list, encoding="utf-8") as lines:
            return [line.rstrip() for line in lines]
    except UnicodeDecodeError as error:
        raise UserError(f"token_list: {args.token_list}: {error}") from error
