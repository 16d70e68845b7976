"""Builds the engine of pseudo-labeling from ESPnet's options."""

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from espnet2.text.build_tokenizer import build_tokenizer
from espnet2.text.token_id_converter import TokenIDConverter

from espnet_softpl import cache, criteria, filters, regularizers, shaping, teacher
from espnet_softpl.cache import CACHE_DIR, LabelCache
from espnet_softpl.core import errors
from espnet_softpl.core.modules import dropouts
from espnet_softpl.core.processes import rank_and_world
from espnet_softpl.core.registry import build_from_conf, named_confs
from espnet_softpl.criteria import PLCriterion
from espnet_softpl.data import tables
from espnet_softpl.filters import Filter
from espnet_softpl.labels.forms import LabelForms
from espnet_softpl.monitors import guard
from espnet_softpl.monitors.oracle import Oracle
from espnet_softpl.monitors.samples import SampleRecorder, choose
from espnet_softpl.teacher.generator import PseudoLabelGenerator
from espnet_softpl.training.dropout import DropoutSwitch
from espnet_softpl.training.engine import PseudoLabeling
from espnet_softpl.training.lengths import sample_rate, usable_shape_file
from espnet_softpl.training.model import SoftPLModel
from espnet_softpl.training.schedule import Schedule, Scheduled


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
    return cache.build(args.pl_cache, **conf_of("cache", args))


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


def read_token_list(args: argparse.Namespace) -> list[str]:
    """Return the tokens, from a file or from a configuration that holds them."""
    if not isinstance(args.token_list, str):
        return list(args.token_list)
    if not Path(args.token_list).is_file():
        raise ValueError(f"token_list: {args.token_list} does not exist")
    with open(args.token_list, encoding="utf-8") as lines:
        return [line.rstrip() for line in lines]


TEXT_TYPES = ("char", "bpe", "word")  # Tokens of these make a text again.


def build_to_text(args: argparse.Namespace) -> Callable[[list[int]], str]:
    """Build the function that turns token ids into a transcript.

    Args:
        args: The parsed options.

    Returns:
        A function from token ids to text.

    Raises:
        UserError: The token type has no inverse here.
    """
    if args.token_type not in TEXT_TYPES:
        raise errors.UserError(
            f"token_type: transcripts need char, bpe or word, got {args.token_type!r}"
        )
    converter = TokenIDConverter(token_list=read_token_list(args))
    tokenizer = build_tokenizer(token_type=args.token_type, bpemodel=args.bpemodel)
    return lambda ids: tokenizer.tokens2text(converter.ids2tokens(ids))


def build_samples(
    args: argparse.Namespace, trusted: list[tuple[str, Filter]]
) -> SampleRecorder | None:
    """Build what records the labels of a few utterances.

    Args:
        args: The parsed options; the usable utterances are written.
        trusted: The filters.

    Returns:
        The recorder, or None where nothing is to be recorded.
    """
    if args.pl_samples == 0:
        return None
    if args.token_type in TEXT_TYPES:
        to_text = build_to_text(args)
    else:
        converter = TokenIDConverter(token_list=read_token_list(args))

        def to_text(ids: list[int]) -> str:
            return " ".join(converter.ids2tokens(ids))

    ids = choose(tables.read_lengths(usable_shape_file(args)), args.pl_samples)
    return SampleRecorder(ids, to_text, [name for name, _ in trusted])


def build_pseudo_labeling(
    args: argparse.Namespace, model: SoftPLModel, labeled_tokens_per_sample: float
) -> PseudoLabeling:
    """Build the engine that the model learns from unlabeled batches with.

    Args:
        args: The parsed options, checked.
        model: The model, as it was built.
        labeled_tokens_per_sample: Speech rate of the labeled data, NaN if unknown.

    Returns:
        The engine; its teacher is born at the first unlabeled batch.

    Raises:
        UserError: The model or the labeled data lack what a part needs.
    """
    oracle = None
    if args.unlabeled_oracle_text:
        texts = tables.read_scp(args.unlabeled_oracle_text, empty=True)
        oracle = Oracle(texts, build_to_text(args))
    trusted = build_filters(args)
    check_filters(args, trusted, model, labeled_tokens_per_sample)
    schedule = build_schedule(args)
    try:
        switch = DropoutSwitch(model, schedule.dropout, schedule.layer_drop)
    except ValueError as error:
        raise errors.UserError(str(error)) from error
    forms = build_forms(args)
    settings, cache = build_cache(args), None
    if settings is not None:
        rank, _ = rank_and_world()
        cache = LabelCache(
            settings,
            needs_posteriors(args),
            Path(args.output_dir) / CACHE_DIR / f"rank{rank}",
            forms,
        )
    return PseudoLabeling(
        criterion=build_criterion(args),
        generator=PseudoLabelGenerator(
            build_teacher(args), layers=forms.layers == "own"
        ),
        forms=forms,
        regularizers=build_regularizers(args),
        shaping=build_shaping(args),
        filters=trusted,
        cache=cache,
        dropout=switch,
        start_step=schedule.start_step,
        oracle=oracle,
        guard=guard.build(args.pl_guard, **conf_of("guard", args)),
        labeled_tokens_per_sample=labeled_tokens_per_sample,
        # Of features the time between frames is not known, and so no hours are.
        sample_rate=sample_rate(args) if args.input_size is None else math.nan,
    )


def check_filters(
    args: argparse.Namespace,
    trusted: list[tuple[str, Filter]],
    model: SoftPLModel,
    labeled_tokens_per_sample: float,
) -> None:
    """Refuse filters that would find nothing to judge by.

    Args:
        args: The parsed options.
        trusted: The filters.
        model: The model, as it was built.
        labeled_tokens_per_sample: Speech rate of the labeled data, NaN if unknown.

    Raises:
        UserError: Which filter lacks what.
    """
    for name, part in trusted:
        if part.needs_rate and math.isnan(labeled_tokens_per_sample):
            raise errors.UserError(
                f"pl_filter: {name} compares with the speech rate of the labeled data; "
                f"give train_shape_file speech_shape and text_shape"
            )
        if part.needs_dropout and not any(
            getattr(part, "p", getattr(part, "dropout", 0.0)) > 0.0
            for part in dropouts(model)
        ):
            raise errors.UserError(
                f"pl_filter: {name} compares transcripts under dropout, and the model "
                f"has none; set encoder_conf.dropout_rate"
            )
