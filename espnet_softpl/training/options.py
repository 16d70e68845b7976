"""The ESPnet options of pseudo-labeling, and those that are refused at once."""

from __future__ import annotations

import argparse
import logging
from typing import Any

import yaml
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import int_or_none, str2bool, str2triple_str, str_or_none

from espnet_softpl import cache, criteria, filters, regularizers, shaping, teacher
from espnet_softpl.labels.forms import DECODER_TARGETS, LAYER_TARGETS
from espnet_softpl.monitors import guard
from espnet_softpl.training.help import part_helps, wrapped


def add_form_arguments(group: Any) -> None:
    """Add the options that choose the forms.

    Args:
        group: A group of a parser's options.
    """
    group.add_argument(
        "--pl_decoder",
        type=str,
        default="auto",
        help="What unlabeled batches train the decoder on. Legal: "
        f"{', '.join(DECODER_TARGETS)} (forced: what the teacher's decoder answers to "
        "the transcript of its CTC head, best tokens or whole distributions; auto: "
        "that transcript, for an attention decoder and a criterion on transcripts)",
    )
    group.add_argument(
        "--pl_interctc",
        type=str,
        default="none",
        help="Whose label trains intermediate CTC layers on unlabeled batches, the "
        f"last layer's or each one's own. Legal: {', '.join(LAYER_TARGETS)}",
    )


# Options that may be given several times; argparse adds them to the file's values.
LISTS = (
    "train_data_path_and_name_and_type",
    "train_shape_file",
    "valid_data_path_and_name_and_type",
    "valid_shape_file",
    "fold_length",
    "unlabeled_data_path_and_name_and_type",
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
    add_form_arguments(group)
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
