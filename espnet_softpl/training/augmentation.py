"""Augmentation in ESPnet's loader: for the student, and in step with the label."""

from __future__ import annotations

import argparse
import logging
from typing import Any

from espnet_softpl.core.errors import UserError

logger = logging.getLogger(__name__)

# Effects of ESPnet's loader that move frames away from the clean audio's.
MOVING_EFFECTS = ("speed_perturb", "time_stretch", "reverse")


def options_of(args: argparse.Namespace) -> list[str]:
    """Return the options by which ESPnet's loader augments audio in training."""
    if not args.use_preprocessor:
        return []
    given = [name for name in ("rir_scp", "noise_scp") if getattr(args, name, None)]
    conf = getattr(args, "preprocessor_conf", None) or {}
    effects = conf.get("data_aug_prob") and conf.get("data_aug_effects")
    return [*given, *(["preprocessor_conf.data_aug_effects"] if effects else [])]


def check(args: argparse.Namespace) -> None:
    """Refuse augmentation in the loader after which no label fits the student's."""
    conf = getattr(args, "preprocessor_conf", None) or {}
    if conf.get("min_sample_size", 0) > 0:
        raise UserError(
            "preprocessor_conf.min_sample_size: lengthens audio for chunks, which "
            "pseudo-labeling does not use; leave it out"
        )
    if not (options := options_of(args)):
        return
    if args.input_size is not None:
        raise UserError(
            f"{options[0]}: changes waveforms, and input_size: {args.input_size} "
            f"says that the data are features; leave it out"
        )
    effects = conf["data_aug_effects"] if "data_aug_effects" in options[-1] else []
    if moving := [name for name in MOVING_EFFECTS if name in _words(effects)]:
        raise UserError(
            f"preprocessor_conf.data_aug_effects: {', '.join(moving)} moves the "
            f"student's frames away from the teacher's, which hears clean audio. Leave "
            f"it out; copies at other speeds (ESPnet's speed_perturb_factors) are made "
            f"before training, and may be unlabeled data like any other"
        )
    if effects and len(options) > 1:
        raise UserError(
            "preprocessor_conf.data_aug_effects: ESPnet cannot apply them together "
            "with rir_scp or noise_scp; use one of the two"
        )
    logger.info("The loader augments what the student hears: %s", ", ".join(options))


def _words(value: Any) -> set[str]:
    """Return all words in nested lists."""
    if isinstance(value, (list, tuple)):
        return set().union(*map(_words, value))
    return {value} if isinstance(value, str) else set()
