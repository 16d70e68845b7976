"""The keys of pseudo-labeling: names, types, defaults, help; quick to import."""

from __future__ import annotations

from typing import Any

from espnet_softpl.labels.forms import DECODER_TARGETS, LAYER_TARGETS

UNLABELED_DATA = "unlabeled_data_path_and_name_and_type"

# Parts: the default (of several parts a list), the help. Settings have, in the place of
# the help, how they are given to several parts.
PARTS: dict[str, tuple[Any, str]] = {
    "--pl_criterion": (
        None,
        "Loss against the pseudo-labels, which switches them on. None: stock training",
    ),
    "--pl_criterion_conf": ({}, ""),
    "--pl_teacher": ("ema", "Who labels"),
    "--pl_teacher_conf": ({}, ""),
    "--pl_cache": ("none", "Keep labels and train on them again"),
    "--pl_cache_conf": ({}, ""),
    "--pl_guard": ("warn", "What to do if the labels collapse"),
    "--pl_guard_conf": ({}, ""),
    "--pl_filter": (["tokens"], "Which labels are used, in order"),
    "--pl_filter_conf": ({}, "tokens.min_tokens=2"),
    "--pl_regularizer": ([], "Terms added to the criterion"),
    "--pl_regularizer_conf": ({}, "mean_entropy.weight=0.1"),
    "--pl_shaping": ([], "Changes to the teacher's label, in order"),
    "--pl_shaping_conf": ({}, "sharpen.temperature=0.5"),
    "--pl_schedule_conf": ({}, "How labeled and unlabeled mini-batches alternate"),
}

# All others: the type (of ESPnet's the name), the default (a list if it may be given
# again), the help.
OTHERS: dict[str, tuple[Any, Any, str]] = {
    "--pl_separate_head": (
        "str2bool",
        False,
        "Train unlabeled batches on a CTC head of their own. Checkpoints do not hold "
        "it. Allowed: true, false",
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
        "Whose label trains intermediate CTC layers. The last layer's, or each one's "
        f"own. Allowed: {', '.join(LAYER_TARGETS)}",
    ),
    "--pl_allow_changed_resume": (
        "str2bool",
        False,
        "Resume a run with other settings or data. They are logged; otherwise they are "
        "refused. Allowed: true, false",
    ),
    "--pl_max_bad_share": (
        float,
        0.01,
        "Largest share of unusable data, in [0, 1]. Of unlabeled files that cannot be "
        "read, and of labeled utterances with more tokens than frames",
    ),
    "--pl_samples": (
        int,
        8,
        "Unlabeled utterances whose labels the report shows over time. At least 0; "
        "they are recorded in pl_samples/ whenever they are trained on",
    ),
    "--unlabeled_data_path_and_name_and_type": (
        "str2triple_str",
        [],
        "Audio without transcripts. As --train_data_path_and_name_and_type, e.g. "
        "dump/unlabeled/wav.scp,speech,sound. Of the types sound, kaldi_ark (audio or "
        "features in archives) and multi_columns_sound the lengths are read from the "
        "files, others need unlabeled_shape_file",
    ),
    "--unlabeled_shape_file": (
        str,
        [],
        "Lengths of the unlabeled utterances. In samples (of features: in frames); "
        "read from the audio files' headers if not given",
    ),
    "--unlabeled_batch_bins": (
        "int_or_none",
        None,
        "As --batch_bins, for unlabeled batches. In samples times utterances of all "
        "processes, at least 1. None: the same as --batch_bins",
    ),
    "--unlabeled_batch_size": (
        "int_or_none",
        None,
        "As --batch_size, for unlabeled batches. In utterances of all processes, at "
        "least 1. None: the same as --batch_size",
    ),
    "--unlabeled_shards": (
        "int_or_none",
        None,
        "Parts that a pass reads one after the other. Of as many utterances each, in "
        "the order of wav.scp; parts and the mini-batches in a part are shuffled. For "
        "disks that are slow if files are read in any order. At least 1; None: 1",
    ),
    "--unlabeled_oracle_text": (
        "str_or_none",
        None,
        "True transcripts of unlabeled utterances, if they exist. For the statistics "
        "pl_wer and pl_cer only, never for a loss",
    ),
}


def helps() -> dict[str, tuple[Any, str]]:
    """Return default and help of each key; settings of a part stand with the part."""
    entries = {**PARTS, **{option: entry[1:] for option, entry in OTHERS.items()}}
    return {
        option.removeprefix("--"): entry
        for option, entry in entries.items()
        if not option.endswith("_conf") or option.removesuffix("_conf") not in PARTS
    }
