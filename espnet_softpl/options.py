"""The ESPnet options of pseudo-labeling, and those that are refused at once."""

from __future__ import annotations

import argparse
import functools
import logging
import sys
from pathlib import Path
from typing import Any, NoReturn

from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import int_or_none, str2bool, str2triple_str, str_or_none

from espnet_softpl import (
    cache,
    criteria,
    filters,
    guard,
    label_forms,
    regularizers,
    shaping,
    teacher,
)
from espnet_softpl.criteria import PLCriterion
from espnet_softpl.label_forms import LabelForms
from espnet_softpl.registry import build_from_conf, named_confs
from espnet_softpl.schedule import Schedule, Scheduled
from espnet_softpl.setting_help import part_helps, wrapped

logger = logging.getLogger(__name__)

UNLABELED_DATA = "unlabeled_data_path_and_name_and_type"
OWN_PARTS = ("criterion", "teacher")  # Of one name each: these may be the user's own.


def add_pl_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of pseudo-labeling.

    Args:
        parser: ESPnet's parser of training options.
    """
    group = parser.add_argument_group("Pseudo-labeling related")
    for name, legal, default, what in (
        (
            "criterion",
            criteria.available(),
            None,
            "Loss against the pseudo-labels; switches pseudo-labeling on. None: stock "
            "training",
        ),
        ("teacher", teacher.available(), "ema", "Who labels"),
        (
            "cache",
            (*cache.available(), "none"),
            "none",
            "Keep labels and train on them again",
        ),
        (
            "guard",
            (*guard.ACTIONS, "none"),
            "warn",
            "What to do when the labels collapse",
        ),
    ):
        own = ", or your own as 'module:Class'" if name in OWN_PARTS else ""
        group.add_argument(
            f"--pl_{name}",
            type=str_or_none if default is None else str,
            default=default,
            help=wrapped(f"{what}. Legal: {', '.join(legal)}{own}"),
        )
    for name, legal, default, what in (
        ("filter", filters.available(), ["tokens"], "Which labels are used, in order"),
        ("regularizer", regularizers.available(), [], "Terms added to the criterion"),
        (
            "shaping",
            shaping.available(),
            [],
            "Changes to the teacher's label, in order",
        ),
    ):
        group.add_argument(
            f"--pl_{name}",
            type=str,
            nargs="*",
            default=default,
            help=wrapped(
                f"{what}. Legal: one or several of {', '.join(legal)}, or your own as "
                f"'module:Class'"
            ),
        )
    group.add_argument(
        "--pl_separate_head",
        type=str2bool,
        default=False,
        help=wrapped(
            "Train unlabeled batches on a CTC head of their own, which checkpoints do "
            "not hold. Legal: true, false"
        ),
    )
    label_forms.add_arguments(group)
    for name, text in part_helps().items():
        group.add_argument(
            f"--pl_{name}_conf",
            action=NestedDictAction,
            default=dict(),
            metavar="NAME=VALUE",
            help=text,
        )
    group.add_argument(
        "--pl_max_bad_share",
        type=float,
        default=0.01,
        help=wrapped(
            "Largest share, in [0, 1], of unlabeled files that cannot be read, and of "
            "labeled utterances with more tokens than frames"
        ),
    )
    _add_unlabeled_arguments(group)


def _add_unlabeled_arguments(group: Any) -> None:
    group.add_argument(
        f"--{UNLABELED_DATA}",
        type=str2triple_str,
        action="append",
        default=[],
        help=wrapped(
            "As --train_data_path_and_name_and_type, for audio without transcripts, "
            "e.g. dump/unlabeled/wav.scp,speech,sound. Of the types sound, kaldi_ark "
            "(audio or features in archives) and multi_columns_sound the lengths are "
            "read from the files, others need unlabeled_shape_file"
        ),
    )
    group.add_argument(
        "--unlabeled_shape_file",
        type=str,
        action="append",
        default=[],
        help=wrapped(
            "Lengths of the unlabeled utterances, in samples (of features: in frames); "
            "read from the audio files' headers if not given"
        ),
    )
    for name, unit in (("bins", "samples times utterances"), ("size", "utterances")):
        group.add_argument(
            f"--unlabeled_batch_{name}",
            type=int_or_none,
            default=None,
            help=wrapped(
                f"As --batch_{name}, for unlabeled batches, in {unit} of all "
                f"processes, at least 1. None: the same as --batch_{name}"
            ),
        )
    group.add_argument(
        "--unlabeled_oracle_text",
        type=str_or_none,
        default=None,
        help=wrapped(
            "True transcripts of unlabeled utterances, where they exist: for the "
            "statistics pl_wer and pl_cer only, never for a loss"
        ),
    )
    group.add_argument(
        "--pl_samples",
        type=int,
        default=8,
        help="Unlabeled utterances whose labels are recorded in pl_samples/ whenever "
        "they are trained on, for espnet_softpl.bin.report; at least 0, 0 records none",
    )


def conf_of(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return the settings `pl_<name>_conf`."""
    return dict(getattr(args, f"pl_{name}_conf"))


def build_criterion(args: argparse.Namespace) -> Scheduled[PLCriterion]:
    """Build the criterion; its settings may be scheduled."""
    return Scheduled(
        lambda **conf: criteria.build(args.pl_criterion, **conf),
        conf_of("criterion", args),
    )


def build_regularizers(args: argparse.Namespace) -> list[Scheduled[PLCriterion]]:
    """Build the regularizers; their settings may be scheduled."""
    confs = named_confs("pl_regularizer", args.pl_regularizer, args.pl_regularizer_conf)
    return [
        Scheduled(functools.partial(regularizers.build, name), conf)
        for name, conf in confs.items()
    ]


def build_shaping(args: argparse.Namespace) -> list[Scheduled[shaping.Shaping]]:
    """Build the shaping of the teacher's labels, in order; it may be scheduled."""
    confs = named_confs("pl_shaping", args.pl_shaping, args.pl_shaping_conf)
    return [
        Scheduled(functools.partial(shaping.build, name), conf)
        for name, conf in confs.items()
    ]


def build_filters(args: argparse.Namespace) -> list[tuple[str, filters.Filter]]:
    """Build the filters by name, in order; of a user's own, the class is the name."""
    confs = named_confs("pl_filter", args.pl_filter, args.pl_filter_conf)
    return [
        (name.rpartition(":")[2], filters.build(name, **conf))
        for name, conf in confs.items()
    ]


def build_teacher(args: argparse.Namespace) -> teacher.Teacher:
    """Build the teacher; steps per epoch are those of the run where they are wanted."""
    conf = conf_of("teacher", args)
    if "retention" in conf and "steps_per_epoch" not in conf:
        if not args.num_iters_per_epoch:
            raise ValueError(
                "pl_teacher_conf.retention: is a share per epoch, and the length of "
                "an epoch is not known; set num_iters_per_epoch, or "
                "pl_teacher_conf.steps_per_epoch (optimizer steps)"
            )
        steps = args.num_iters_per_epoch // args.accum_grad
        conf["steps_per_epoch"] = max(steps, 1)
    return teacher.build(args.pl_teacher, **conf)


def build_cache(args: argparse.Namespace) -> cache.CacheSettings | None:
    """Build the settings of the label cache, or None."""
    return cache.build_settings(args.pl_cache, **conf_of("cache", args))


def build_forms(args: argparse.Namespace) -> LabelForms:
    """Build the choice of who learns from a label beside the last layer's CTC."""
    return LabelForms(decoder=args.pl_decoder, layers=args.pl_interctc)


def build_schedule(args: argparse.Namespace) -> Schedule:
    """Build the schedule."""
    return build_from_conf(Schedule, conf_of("schedule", args), "pl_schedule_conf")


def needs_posteriors(args: argparse.Namespace) -> bool:
    """Tell whether criterion or regularizers look at the posteriors of labels."""
    parts = (build_criterion(args), *build_regularizers(args))
    return any(part.at(0).needs_posteriors for part in parts)


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that cannot work, before any data are touched.

    Args:
        args: The parsed options, with `pl_criterion` set.

    Raises:
        ValueError: With the key, the value and what is legal.
    """
    criterion = build_criterion(args).at(0)
    _check_teacher(args)
    build_schedule(args)
    guard.build(args.pl_guard, **conf_of("guard", args))
    settings = build_cache(args)
    ahead = 2 * args.num_workers  # DataLoader's default for each worker.
    if isinstance(settings, cache.LabelChange) and settings.lag <= ahead:
        raise ValueError(
            f"pl_cache_conf.lag: must be at least {ahead + 1} with num_workers: "
            f"{args.num_workers}, got {settings.lag}: the loader reads that far ahead"
        )
    if next(criterion.parameters(), None) is not None:
        raise ValueError("pl_criterion: a criterion must not have parameters to train")
    frame_level = _check_label(args, criterion)
    if not 0.0 <= args.pl_max_bad_share <= 1.0:
        raise ValueError(f"pl_max_bad_share: {args.pl_max_bad_share} is not in [0, 1]")
    if args.pl_samples < 0:
        raise ValueError(f"pl_samples: must be at least 0, got {args.pl_samples}")
    _check_model(args, frame_level)
    label_forms.check(build_forms(args), args)
    _check_loop_options(args)


def _check_teacher(args: argparse.Namespace) -> None:
    """Refuse a teacher of the best epochs whose files would not be kept."""
    built = build_teacher(args)
    if not isinstance(built, teacher.TopNTeacher):
        return
    if list(built.criterion) not in [list(c) for c in args.best_model_criterion]:
        raise ValueError(
            f"pl_teacher_conf.criterion: {list(built.criterion)} must be among "
            f"best_model_criterion, {[list(c) for c in args.best_model_criterion]}"
        )
    kept = args.keep_nbest_models
    kept = max(kept) if isinstance(kept, (list, tuple)) else kept
    if kept < built.keep:
        raise ValueError(
            f"keep_nbest_models: {kept} epochs are kept, the teacher averages "
            f"{built.keep} (pl_teacher_conf.n); keep as many at least"
        )


def _check_model(args: argparse.Namespace, frame_level: str | None) -> None:
    """Refuse a model that cannot be taught so."""
    if args.model != "espnet":
        raise ValueError(
            f"model: {args.model!r} cannot learn from pseudo-labels; use 'espnet'"
        )
    if (args.model_conf or {}).get("ctc_weight", 0.5) == 0.0:
        raise ValueError(
            "model_conf.ctc_weight: 0 makes a model without CTC, and the teacher "
            "labels with CTC; use a weight in (0, 1]"
        )
    specaug = dict(args.specaug_conf or {}) if args.specaug is not None else {}
    if args.specaug is not None and frame_level:
        if specaug.get("apply_time_warp", True):
            raise ValueError(
                f"specaug_conf.apply_time_warp: must be false with {frame_level}: what "
                f"the student learns, it learns frame by frame of the clean audio, and "
                f"time warping moves the student's frames away from the teacher's"
            )
    if (args.encoder_conf or {}).get("ctc_trim"):
        raise ValueError(
            "encoder_conf.ctc_trim: drops frames as the model sees fit, "
            "so teacher and student would disagree; set it to false"
        )


def _check_label(args: argparse.Namespace, criterion: PLCriterion) -> str | None:
    """Refuse parts that do not fit; name what makes the target one per frame."""
    shapers = [shaper.at(0) for shaper in build_shaping(args)]
    wishes = [part.at(0).needs_prior for part in build_regularizers(args)]
    wishes += [criterion.needs_prior, *(shaper.needs_prior for shaper in shapers)]
    wishes += [part.needs_labeled for _, part in build_filters(args)]
    schedule = build_schedule(args)
    if any(wishes) and schedule.labeled_steps == 0 and schedule.start_step == 0:
        raise ValueError(
            "pl_schedule_conf: labeled_steps and start_step are 0, but what "
            "pl_regularizer, pl_shaping, pl_filter or pl_criterion asks for is counted "
            "on labeled batches; set one of the two"
        )
    if any(shaper.sets_frame_weight for shaper in shapers):
        if not criterion.weighs_frames:
            raise ValueError(
                f"pl_shaping: {args.pl_shaping} weighs frames, which pl_criterion "
                f"{args.pl_criterion!r} does not use"
            )
        return f"pl_shaping {args.pl_shaping}"
    return f"pl_criterion {args.pl_criterion!r}" if criterion.frame_level else None


def refuse(error: Exception | str, status: int = 2) -> NoReturn:
    """End the process with a message, as argparse does, and its status 2 or another."""
    sys.stderr.write(f"{Path(sys.argv[0]).name}: error: {error}\n")
    sys.exit(status)


def _check_loop_options(args: argparse.Namespace) -> None:
    if args.iterator_type != "sequence" or args.multiple_iterator:
        raise ValueError(
            f"iterator_type: pseudo-labeling needs 'sequence' without "
            f"multiple_iterator, got {args.iterator_type!r}"
        )
    if args.shuffle_within_batch:
        raise ValueError(
            "shuffle_within_batch: must be false, for pseudo-labeling takes ESPnet's "
            "mini-batches whole"
        )
    if args.ngpu > 1 and not args.multiprocessing_distributed:
        raise ValueError(
            "ngpu: several GPUs need --multiprocessing_distributed true (one process "
            "per GPU); torch's DataParallel is not supported"
        )


def read_token_list(args: argparse.Namespace) -> list[str]:
    """Return the tokens, from a file or from a configuration that holds them."""
    if not isinstance(args.token_list, str):
        return list(args.token_list)
    if not Path(args.token_list).is_file():
        raise ValueError(f"token_list: {args.token_list} does not exist")
    with open(args.token_list, encoding="utf-8") as lines:
        return [line.rstrip() for line in lines]
