"""The ESPnet options of pseudo-labeling."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

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


def prefer_command_line(args: argparse.Namespace) -> None:
    """Let lists of the command line replace those of the configuration file.

    A complete configuration can so be given to ESPnet's asr.sh, which names the data on
    the command line. ESPnet's own parser appends them to the file's, and its data set
    then refuses the second `speech`.

    Args:
        args: The parsed options, changed in place.
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
    group = _Group(parser)
    _add_parts(group)
    _add_choices(group)
    _add_data(group)


class _Group:
    """A group of options; ESPnet shows their help as it is written, so in lines."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._group = parser.add_argument_group("Pseudo-labeling related")

    def add_argument(self, option: str, help: str, **how: Any) -> None:
        self._group.add_argument(option, help=wrapped(help), **how)

    def add_part(
        self, option: str, what: str, parts: Registry, default: str | list[str] | None
    ) -> None:
        several = isinstance(default, list)
        allowed = f"{'one or several of ' if several else ''}{parts.allowed()}"
        self.add_argument(
            option,
            f"{what}. Allowed: {allowed}",
            type=str_or_none if default is None else str,
            nargs="*" if several else None,
            default=default,
        )

    def add_settings(
        self, option: str, parts: Mapping[str, Callable[..., Any]], example: str = ""
    ) -> None:
        part = option.removeprefix("--pl_").removesuffix("_conf")
        several = f"; of several {part}s by name, as {example}" if example else ""
        self._group.add_argument(
            option,
            action=NestedDictAction,
            default=dict(),
            metavar="NAME=VALUE",
            help=help_of(f"Settings of the {part}{several}", parts),
        )


def _add_parts(group: _Group) -> None:
    group.add_part(
        "--pl_criterion",
        "Loss against the pseudo-labels; switches pseudo-labeling on. None: stock "
        "training",
        criteria.REGISTRY,
        None,
    )
    group.add_settings("--pl_criterion_conf", criteria.REGISTRY.classes())
    group.add_part("--pl_teacher", "Who labels", teacher.REGISTRY, "ema")
    group.add_settings("--pl_teacher_conf", teacher.REGISTRY.classes())
    group.add_part(
        "--pl_cache", "Keep labels and train on them again", cache.REGISTRY, "none"
    )
    group.add_settings("--pl_cache_conf", cache.REGISTRY.classes())
    group.add_part(
        "--pl_guard", "What to do if the labels collapse", guard.REGISTRY, "warn"
    )
    group.add_settings("--pl_guard_conf", {"": guard.REGISTRY.get_class("warn")})
    group.add_part(
        "--pl_filter", "Which labels are used, in order", filters.REGISTRY, ["tokens"]
    )
    group.add_settings(
        "--pl_filter_conf", filters.REGISTRY.classes(), "tokens.min_tokens=2"
    )
    group.add_part(
        "--pl_regularizer", "Terms added to the criterion", regularizers.REGISTRY, []
    )
    group.add_settings(
        "--pl_regularizer_conf",
        regularizers.REGISTRY.classes(),
        "mean_entropy.weight=0.1",
    )
    group.add_part(
        "--pl_shaping", "Changes to the teacher's label, in order", shaping.REGISTRY, []
    )
    group.add_settings(
        "--pl_shaping_conf", shaping.REGISTRY.classes(), "sharpen.temperature=0.5"
    )
    group.add_settings("--pl_schedule_conf", {"": Schedule})


def _add_choices(group: _Group) -> None:
    group.add_argument(
        "--pl_separate_head",
        "Train unlabeled batches on a CTC head of their own, which checkpoints do not "
        "hold. Allowed: true, false",
        type=str2bool,
        default=False,
    )
    group.add_argument(
        "--pl_decoder",
        f"What unlabeled batches train the decoder on. Allowed: "
        f"{', '.join(DECODER_TARGETS)} (forced: what the teacher's decoder answers to "
        "the transcript of its CTC head, best tokens or whole distributions; auto: "
        "that transcript, for an attention decoder and a criterion on transcripts)",
        default="auto",
    )
    group.add_argument(
        "--pl_interctc",
        "Whose label trains intermediate CTC layers on unlabeled batches, the last "
        f"layer's or each one's own. Allowed: {', '.join(LAYER_TARGETS)}",
        default="none",
    )
    group.add_argument(
        "--pl_max_bad_share",
        "Largest share, in [0, 1], of unlabeled files that cannot be read, and of "
        "labeled utterances with more tokens than frames",
        type=float,
        default=0.01,
    )
    group.add_argument(
        "--pl_samples",
        "Unlabeled utterances whose labels are recorded in pl_samples/ whenever they "
        "are trained on, for espnet_softpl.bin.report; at least 0, 0 records none",
        type=int,
        default=8,
    )


def _add_data(group: _Group) -> None:
    group.add_argument(
        "--unlabeled_data_path_and_name_and_type",
        "As --train_data_path_and_name_and_type, for audio without transcripts, e.g. "
        "dump/unlabeled/wav.scp,speech,sound. Of the types sound, kaldi_ark (audio or "
        "features in archives) and multi_columns_sound the lengths are read from the "
        "files, others need unlabeled_shape_file",
        type=str2triple_str,
        action="append",
        default=[],
    )
    group.add_argument(
        "--unlabeled_shape_file",
        "Lengths of the unlabeled utterances, in samples (of features: in frames); "
        "read from the audio files' headers if not given",
        action="append",
        default=[],
    )
    group.add_argument(
        "--unlabeled_batch_bins",
        "As --batch_bins, for unlabeled batches, in samples times utterances of all "
        "processes, at least 1. None: the same as --batch_bins",
        type=int_or_none,
    )
    group.add_argument(
        "--unlabeled_batch_size",
        "As --batch_size, for unlabeled batches, in utterances of all processes, at "
        "least 1. None: the same as --batch_size",
        type=int_or_none,
    )
    group.add_argument(
        "--unlabeled_oracle_text",
        "True transcripts of unlabeled utterances, if they exist: for the statistics "
        "pl_wer and pl_cer only, never for a loss",
        type=str_or_none,
    )
