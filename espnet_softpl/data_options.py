"""Data options, ESPnet's and ours, that are refused before the model is built."""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path

from espnet_softpl import checks, criteria
from espnet_softpl.audio_source import AUDIO_KINDS
from espnet_softpl.options import UNLABELED_DATA, read_token_list

logger = logging.getLogger(__name__)


def check_names(args: argparse.Namespace) -> None:
    """Refuse labeled data without transcripts, and unlabeled data without a criterion.

    Args:
        args: The parsed options, of any training.

    Raises:
        ValueError: With the option that lacks something.
    """
    if args.pl_criterion is None and getattr(args, UNLABELED_DATA):
        raise ValueError(
            f"{UNLABELED_DATA}: given without pl_criterion, so nothing would be "
            f"learned from it. Legal: {', '.join(criteria.available())}"
        )
    if args.collect_stats or args.dry_run:
        return
    for option in (
        "train_data_path_and_name_and_type",
        "valid_data_path_and_name_and_type",
    ):
        if not any(name == "text" for _, name, _ in getattr(args, option)):
            raise ValueError(
                f"{option}: no 'text' among {getattr(args, option)}. Labeled data "
                f"need transcripts, as in dump/train/text,text,text"
            )


def check_data(args: argparse.Namespace) -> None:
    """Refuse data that cannot work, before the model is built.

    Args:
        args: The parsed options, with `pl_criterion` set.

    Raises:
        ValueError: With the file and what is wrong with it.
    """
    specs = getattr(args, UNLABELED_DATA)
    if any(name == "text" for _, name, _ in specs):
        raise ValueError(
            f"{UNLABELED_DATA}: unlabeled data take no 'text'. True transcripts, for "
            f"statistics only, go to unlabeled_oracle_text"
        )
    unlabeled, kind = checks.speech_scp(specs, UNLABELED_DATA)
    train, train_kind = checks.speech_scp(
        args.train_data_path_and_name_and_type, "train_data_path_and_name_and_type"
    )
    valid, _ = checks.speech_scp(
        args.valid_data_path_and_name_and_type, "valid_data_path_and_name_and_type"
    )
    leaked = checks.shared_utterances(unlabeled, valid)
    if leaked:
        raise ValueError(
            f"{UNLABELED_DATA}: {len(leaked)} utterances are in the validation data "
            f"too: {checks.name_some(leaked)}. Take them out of the unlabeled set"
        )
    known = checks.shared_utterances(unlabeled, train)
    if known:
        logger.warning(
            "%d unlabeled utterances are in the labeled data too: %s",
            len(known),
            checks.name_some(known),
        )
    if kind == "variable_columns_sound":
        raise ValueError(
            f"{UNLABELED_DATA}: {kind} stacks several recordings, and unlabeled audio "
            f"must have one channel. {checks.HOW_TO_FORMAT}"
        )
    checks.check_sample_rates(
        {"unlabeled": unlabeled, "labeled": train},
        {"unlabeled": kind, "labeled": train_kind},
    )
    if kind not in AUDIO_KINDS and not args.unlabeled_shape_file:
        raise ValueError(
            f"unlabeled_shape_file: must be given for data of type {kind!r}; only of "
            f"{', '.join(AUDIO_KINDS)} can the lengths be read from the files"
        )
    for path in args.unlabeled_shape_file:
        missing = set(checks.read_lengths(path)) - set(unlabeled)
        if missing:
            raise ValueError(
                f"unlabeled_shape_file: {len(missing)} utterances of {path} are not "
                f"in the unlabeled data: {checks.name_some(missing)}"
            )
    if args.unlabeled_oracle_text and not Path(args.unlabeled_oracle_text).is_file():
        raise ValueError(
            f"unlabeled_oracle_text: {args.unlabeled_oracle_text} does not exist"
        )
    check_writable(args.output_dir)


def check_writable(output_dir: str | Path) -> None:
    """Refuse a directory that nothing can be written to.

    Args:
        output_dir: The experiment directory; it is made.

    Raises:
        ValueError: It cannot be made, or takes no file.
    """
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output_dir) as file:
            file.write(b"0")
    except OSError as error:
        raise ValueError(
            f"output_dir: {output_dir} cannot be written to: {error}"
        ) from error


def check_tokens(args: argparse.Namespace) -> None:
    """Refuse a token list that does not fit CTC or the seed model.

    Args:
        args: The parsed options.

    Raises:
        ValueError: The blank is not token 0, or the seed has other tokens.
    """
    tokens = read_token_list(args)
    blank = (args.model_conf or {}).get("sym_blank", "<blank>")
    if not tokens or tokens[0] != blank:
        raise ValueError(
            f"token_list: the first token must be {blank!r}, as ESPnet's "
            f"CTC has it; got {tokens[:1]}"
        )
    checks.check_seed_tokens(args.init_param, tokens)
