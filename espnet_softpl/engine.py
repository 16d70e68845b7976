"""Builds the engine of pseudo-labeling from ESPnet's options."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from espnet2.text.build_tokenizer import build_tokenizer
from espnet2.text.token_id_converter import TokenIDConverter

from espnet_softpl import checks, guard, options
from espnet_softpl.cache import CACHE_DIR, LabelCache
from espnet_softpl.data_lengths import sample_rate, usable_shape_file
from espnet_softpl.dropout import DropoutSwitch, dropouts
from espnet_softpl.filters import Filter
from espnet_softpl.generator import PseudoLabelGenerator
from espnet_softpl.model import SoftPLModel
from espnet_softpl.oracle import Oracle
from espnet_softpl.processes import rank_and_world
from espnet_softpl.pseudo_labeling import PseudoLabeling
from espnet_softpl.samples import SampleRecorder, choose

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
        raise checks.UserError(
            f"token_type: transcripts need char, bpe or word, got {args.token_type!r}"
        )
    converter = TokenIDConverter(token_list=options.read_token_list(args))
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
        converter = TokenIDConverter(token_list=options.read_token_list(args))

        def to_text(ids: list[int]) -> str:
            return " ".join(converter.ids2tokens(ids))

    ids = choose(checks.read_lengths(usable_shape_file(args)), args.pl_samples)
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
        texts = checks.read_scp(args.unlabeled_oracle_text, empty=True)
        oracle = Oracle(texts, build_to_text(args))
    trusted = options.build_filters(args)
    check_filters(args, trusted, model, labeled_tokens_per_sample)
    schedule = options.build_schedule(args)
    try:
        switch = DropoutSwitch(model, schedule.dropout, schedule.layer_drop)
    except ValueError as error:
        raise checks.UserError(str(error)) from error
    forms = options.build_forms(args)
    settings, cache = options.build_cache(args), None
    if settings is not None:
        rank, _ = rank_and_world()
        cache = LabelCache(
            settings,
            options.needs_posteriors(args),
            Path(args.output_dir) / CACHE_DIR / f"rank{rank}",
            forms,
        )
    return PseudoLabeling(
        criterion=options.build_criterion(args),
        generator=PseudoLabelGenerator(
            options.build_teacher(args), layers=forms.layers == "own"
        ),
        forms=forms,
        regularizers=options.build_regularizers(args),
        shaping=options.build_shaping(args),
        filters=trusted,
        cache=cache,
        dropout=switch,
        start_step=schedule.start_step,
        oracle=oracle,
        guard=guard.build(args.pl_guard, **options.conf_of("guard", args)),
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
            raise checks.UserError(
                f"pl_filter: {name} compares with the speech rate of the labeled data; "
                f"give train_shape_file speech_shape and text_shape"
            )
        if part.needs_dropout and not any(
            getattr(part, "p", getattr(part, "dropout", 0.0)) > 0.0
            for part in dropouts(model)
        ):
            raise checks.UserError(
                f"pl_filter: {name} compares transcripts under dropout, and the model "
                f"has none; set encoder_conf.dropout_rate"
            )
