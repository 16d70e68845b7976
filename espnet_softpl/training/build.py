"""Builds the engine of pseudo-labeling from its settings."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from espnet2.text.build_tokenizer import build_tokenizer

from espnet_softpl.cache import CACHE_DIR, LabelCache
from espnet_softpl.core.errors import UserError
from espnet_softpl.core.processes import rank_and_world
from espnet_softpl.data import tables
from espnet_softpl.labels.token_lm import NOT_SAID
from espnet_softpl.monitors.oracle import Oracle
from espnet_softpl.monitors.samples import SampleRecorder
from espnet_softpl.teacher.generator import PseudoLabelGenerator
from espnet_softpl.training.checks import check_filters
from espnet_softpl.training.config import PLConfig, read_token_list
from espnet_softpl.training.engine import PseudoLabeling
from espnet_softpl.training.hooks import DropoutSwitch
from espnet_softpl.training.lengths import sample_rate, usable_shape_file
from espnet_softpl.training.model import SoftPLModel
from espnet_softpl.training.resume.settings import fingerprint


def build_to_text(
    args: argparse.Namespace, any_type: bool = False
) -> Callable[[list[int]], str]:
    """Build the function that turns token ids into a transcript.

    Tokens that make no text again are refused, or with `any_type` joined by spaces.
    Without it, tokens that stand for no letters (`NOT_SAID`) are left out: nobody has
    said them, and another tokenizer would spell them.
    """
    tokens = read_token_list(args)
    silent = set() if any_type else {i for i, t in enumerate(tokens) if t in NOT_SAID}
    if args.token_type in ("char", "bpe", "word"):
        tokenizer = build_tokenizer(token_type=args.token_type, bpemodel=args.bpemodel)
        return lambda ids: tokenizer.tokens2text(
            [tokens[i] for i in ids if i not in silent]
        )
    if not any_type:
        raise UserError(
            f"token_type: transcripts need char, bpe or word, got {args.token_type!r}"
        )
    return lambda ids: " ".join(tokens[i] for i in ids)


def build_samples(config: PLConfig) -> SampleRecorder | None:
    """Build what records labels of a few that `lengths.write_usable` has written."""
    args = config.args
    if args.pl_samples == 0:
        return None
    ids = tables.kept_lengths(usable_shape_file(args)).draw(args.pl_samples)
    to_text = build_to_text(args, any_type=True)
    return SampleRecorder(ids, to_text, [name for name, _ in config.filters])


def build_pseudo_labeling(
    config: PLConfig, model: SoftPLModel, labeled_tokens_per_sample: float
) -> PseudoLabeling:
    """Build the engine that the model learns from unlabeled batches with.

    A model or labeled data that lack what a part needs are refused. The speech rate of
    the labeled data is NaN if it is not known.
    """
    args, schedule, forms = config.args, config.schedule, config.forms
    oracle = cache = None
    if args.unlabeled_oracle_text:
        texts = tables.read_scp(args.unlabeled_oracle_text, empty=True)
        oracle = Oracle(texts, build_to_text(args))
    check_filters(config.filters, model, labeled_tokens_per_sample, config.shaping)
    try:
        rates = (schedule.dropout, schedule.layer_drop, schedule.start_step)
        switch = DropoutSwitch(model, *rates)
    except ValueError as error:
        raise UserError(str(error)) from error
    if config.cache is not None:
        directory = Path(args.output_dir) / CACHE_DIR / f"rank{rank_and_world()[0]}"
        cache = LabelCache(config.cache, config.needs_posteriors, directory, forms)
    return PseudoLabeling(
        criterion=config.criterion,
        generator=PseudoLabelGenerator(config.teacher, layers=forms.layers == "own"),
        forms=forms,
        regularizers=config.regularizers,
        shaping=config.shaping,
        filters=config.filters,
        cache=cache,
        dropout=switch,
        oracle=oracle,
        guard=config.guard,
        # The first process compares them, so the others need not read the files.
        settings=fingerprint(args) if rank_and_world()[0] == 0 else {},
        allow_changed_resume=args.pl_allow_changed_resume,
        labeled_tokens_per_sample=labeled_tokens_per_sample,
        # Of features the time between frames is not known, and so no hours are.
        sample_rate=sample_rate(args) if args.input_size is None else math.nan,
    )
