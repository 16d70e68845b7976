"""The ESPnet options of pseudo-labeling."""

from __future__ import annotations

import argparse
import copy

import yaml
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import int_or_none, str2bool, str2triple_str, str_or_none

from espnet_softpl import cache, criteria, filters, regularizers, shaping, teacher
from espnet_softpl.core.registry import Registry
from espnet_softpl.labels.forms import DECODER_TARGETS, LAYER_TARGETS
from espnet_softpl.monitors import guard
from espnet_softpl.training.help import help_of, wrapped
from espnet_softpl.training.schedule import Schedule

UNLABELED_DATA = "unlabeled_data_path_and_name_and_type"

# Options that may be given several times; argparse adds them to the file's values.
LISTS = (
    "train_data_path_and_name_and_type",
    "train_shape_file",
    "valid_data_path_and_name_and_type",
    "valid_shape_file",
    "fold_length",
    UNLABELED_DATA,
    "unlabeled_shape_file",
)

# Parts: the registry (or the only class), the default (of several parts a list), the
# help. Settings have, in the place of the help, how they are given to several parts.
PARTS = {
    "--pl_criterion": (
        criteria.REGISTRY,
        None,
        "Loss against the pseudo-labels; switches pseudo-labeling on. None: stock "
        "training",
    ),
    "--pl_criterion_conf": (criteria.REGISTRY, {}, ""),
    "--pl_teacher": (teacher.REGISTRY, "ema", "Who labels"),
    "--pl_teacher_conf": (teacher.REGISTRY, {}, ""),
    "--pl_cache": (cache.REGISTRY, "none", "Keep labels and train on them again"),
    "--pl_cache_conf": (cache.REGISTRY, {}, ""),
    "--pl_guard": (guard.REGISTRY, "warn", "What to do if the labels collapse"),
    "--pl_guard_conf": (guard.REGISTRY.get_class("warn"), {}, ""),
    "--pl_filter": (filters.REGISTRY, ["tokens"], "Which labels are used, in order"),
    "--pl_filter_conf": (filters.REGISTRY, {}, "tokens.min_tokens=2"),
    "--pl_regularizer": (regularizers.REGISTRY, [], "Terms added to the criterion"),
    "--pl_regularizer_conf": (regularizers.REGISTRY, {}, "mean_entropy.weight=0.1"),
    "--pl_shaping": (shaping.REGISTRY, [], "Changes to the teacher's label, in order"),
    "--pl_shaping_conf": (shaping.REGISTRY, {}, "sharpen.temperature=0.5"),
    "--pl_schedule_conf": (Schedule, {}, ""),
}

# All others: the type, the default (a list if it may be given again), the help.
OTHERS = {
    "--pl_separate_head": (
        str2bool,
        False,
        "Train unlabeled batches on a CTC head of their own, which checkpoints do not "
        "hold. Allowed: true, false",
    ),
    "--pl_decoder": (
        str,
        "auto",
        f"What unlabeled batches train the decoder on. Allowed: "
        f"{', '.join(DECODER_TARGETS)} (forced: what the teacher's decoder answers to "
        "the transcript of its CTC head, best tokens or whole distributions; auto: "
        "that transcript, for an attention decoder and a criterion on transcripts)",
    ),
    "--pl_interctc": (
        str,
        "none",
        "Whose label trains intermediate CTC layers on unlabeled batches, the last "
        f"layer's or each one's own. Allowed: {', '.join(LAYER_TARGETS)}",
    ),
    "--pl_allow_changed_resume": (
        str2bool,
        False,
        "Resume a run with settings or data that are not those it began with: they are "
        "logged. Otherwise they are refused. Allowed: true, false",
    ),
    "--pl_max_bad_share": (
        float,
        0.01,
        "Largest share, in [0, 1], of unlabeled files that cannot be read, and of "
        "labeled utterances with more tokens than frames",
    ),
    "--pl_samples": (
        int,
        8,
        "Unlabeled utterances whose labels are recorded in pl_samples/ whenever they "
        "are trained on, for espnet_softpl.bin.report; at least 0, 0 records none",
    ),
    "--unlabeled_data_path_and_name_and_type": (
        str2triple_str,
        [],
        "As --train_data_path_and_name_and_type, for audio without transcripts, e.g. "
        "dump/unlabeled/wav.scp,speech,sound. Of the types sound, kaldi_ark (audio or "
        "features in archives) and multi_columns_sound the lengths are read from the "
        "files, others need unlabeled_shape_file",
    ),
    "--unlabeled_shape_file": (
        str,
        [],
        "Lengths of the unlabeled utterances, in samples (of features: in frames); "
        "read from the audio files' headers if not given",
    ),
    "--unlabeled_batch_bins": (
        int_or_none,
        None,
        "As --batch_bins, for unlabeled batches, in samples times utterances of all "
        "processes, at least 1. None: the same as --batch_bins",
    ),
    "--unlabeled_batch_size": (
        int_or_none,
        None,
        "As --batch_size, for unlabeled batches, in utterances of all processes, at "
        "least 1. None: the same as --batch_size",
    ),
    "--unlabeled_oracle_text": (
        str_or_none,
        None,
        "True transcripts of unlabeled utterances, if they exist: for the statistics "
        "pl_wer and pl_cer only, never for a loss",
    ),
}


def prefer_command_line(args: argparse.Namespace) -> None:
    """Let lists of the command line replace those of the configuration file, in place.

    A complete configuration can so be given to ESPnet's asr.sh, which names the data on
    the command line. ESPnet's own parser appends them to the file's, and its data set
    then refuses the second `speech`.
    """
    if args.config is None:
        return
    with open(args.config, encoding="utf-8") as file:
        config = yaml.safe_load(file)
    for name in LISTS:
        of_file, both = list(config.get(name) or ()), list(getattr(args, name))
        if of_file and len(both) > len(of_file) and both[: len(of_file)] == of_file:
            setattr(args, name, both[len(of_file) :])


def add_pl_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of pseudo-labeling to ESPnet's parser of training options."""
    group = parser.add_argument_group("Pseudo-labeling related")
    for option, (parts, default, text) in PARTS.items():
        part = option.removeprefix("--pl_").removesuffix("_conf")
        if option.endswith("_conf"):
            several = f"; of several {part}s by name, as {text}" if text else ""
            classes = parts.classes() if isinstance(parts, Registry) else {"": parts}
            text = help_of(f"Settings of the {part}{several}", classes)
            keywords = dict(action=NestedDictAction, metavar="NAME=VALUE")
        elif isinstance(default, list):
            text = wrapped(f"{text}. Allowed: one or several of {parts.allowed()}")
            keywords = dict(type=str, nargs="*")
        else:
            text = wrapped(f"{text}. Allowed: {parts.allowed()}")
            keywords = dict(type=str_or_none if default is None else str)
        group.add_argument(option, default=copy.copy(default), help=text, **keywords)
    for option, (convert, default, text) in OTHERS.items():
        keywords = dict(action="append" if isinstance(default, list) else "store")
        default = copy.copy(default)
        group.add_argument(
            option, type=convert, default=default, help=wrapped(text), **keywords
        )
