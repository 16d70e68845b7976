"""The ESPnet task: stock ASR training plus pseudo-labeling options, model and data."""

from __future__ import annotations

import argparse
import copy
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.tasks.asr import ASRTask, model_choices
from espnet2.text.build_tokenizer import build_tokenizer
from espnet2.text.token_id_converter import TokenIDConverter
from espnet2.train.distributed_utils import DistributedOption
from espnet2.utils.nested_dict_action import NestedDictAction
from espnet2.utils.types import int_or_none, str2triple_str, str_or_none

from espnet_softpl import checks, criteria, filters, teacher
from espnet_softpl.criteria.base import build_from_conf
from espnet_softpl.generator import PseudoLabelGenerator
from espnet_softpl.iterator import MixedIterFactory
from espnet_softpl.model import PseudoLabeling, SoftPLModel, frames_of
from espnet_softpl.oracle import Oracle, read_text
from espnet_softpl.schedule import Schedule
from espnet_softpl.trainer import SoftPLTrainer

logger = logging.getLogger(__name__)

UNLABELED_DATA = "unlabeled_data_path_and_name_and_type"


def add_pl_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of pseudo-labeling.

    Args:
        parser: ESPnet's parser of training options.
    """
    group = parser.add_argument_group("Pseudo-labeling related")
    group.add_argument(
        "--pl_criterion",
        type=str_or_none,
        default=None,
        help="Loss against the pseudo-labels; switches pseudo-labeling on. Legal: "
        f"{', '.join(criteria.available())}, or your own as 'module:Class'",
    )
    group.add_argument(
        "--pl_teacher",
        type=str,
        default="ema",
        help=f"Who labels. Legal: {', '.join(teacher.available())}",
    )
    group.add_argument(
        "--pl_filter",
        type=str,
        default="tokens",
        help="Which pseudo-labels are used. Legal: tokens (default: drop empty ones)",
    )
    for name, what in (
        ("criterion", "the criterion, e.g. temperature=0.5 for soft_ce"),
        ("teacher", "the teacher, e.g. decay=0.999 or half_life_steps=500 for ema"),
        ("filter", "the filter, e.g. min_tokens=1"),
        (
            "schedule",
            "the schedule: start_step (mini-batches), labeled_steps, "
            "unlabeled_steps, weight, ramp_steps (mini-batches)",
        ),
    ):
        group.add_argument(
            f"--pl_{name}_conf",
            action=NestedDictAction,
            default=dict(),
            help=f"The keyword arguments of {what}",
        )
    group.add_argument(
        "--pl_max_bad_share",
        type=float,
        default=0.01,
        help="Largest share, in [0, 1], of unlabeled files that cannot be read, and "
        "of labeled utterances with more tokens than frames",
    )
    _add_unlabeled_arguments(group)


def _add_unlabeled_arguments(group: Any) -> None:
    group.add_argument(
        f"--{UNLABELED_DATA}",
        type=str2triple_str,
        action="append",
        default=[],
        help="As --train_data_path_and_name_and_type, for audio without transcripts, "
        "e.g. dump/unlabeled/wav.scp,speech,sound",
    )
    group.add_argument(
        "--unlabeled_shape_file",
        type=str,
        action="append",
        default=[],
        help="Lengths of the unlabeled utterances; read from the audio files' headers "
        "if not given",
    )
    group.add_argument(
        "--unlabeled_batch_bins",
        type=int_or_none,
        default=None,
        help="As --batch_bins, for unlabeled batches (default: the same)",
    )
    group.add_argument(
        "--unlabeled_batch_size",
        type=int_or_none,
        default=None,
        help="As --batch_size, for unlabeled batches (default: the same)",
    )
    group.add_argument(
        "--unlabeled_oracle_text",
        type=str_or_none,
        default=None,
        help="True transcripts of unlabeled utterances, where they exist: for the "
        "statistics pl_wer and pl_cer only, never for a loss",
    )


def _conf_key(name: str, args: argparse.Namespace) -> dict[str, Any]:
    return dict(getattr(args, f"pl_{name}_conf"))


def check_options(args: argparse.Namespace) -> None:
    """Refuse options that cannot work, before any data are touched.

    Args:
        args: The parsed options, with `pl_criterion` set.

    Raises:
        ValueError: With the key, the value and what is legal.
    """
    criterion = criteria.build(args.pl_criterion, **_conf_key("criterion", args))
    teacher.build(args.pl_teacher, **_conf_key("teacher", args))
    filters.build(args.pl_filter, **_conf_key("filter", args))
    build_from_conf(Schedule, _conf_key("schedule", args), "pl_schedule_conf")
    if next(criterion.parameters(), None) is not None:
        raise ValueError("pl_criterion: a criterion must not have parameters to train")
    if not 0.0 <= args.pl_max_bad_share <= 1.0:
        raise ValueError(f"pl_max_bad_share: {args.pl_max_bad_share} is not in [0, 1]")
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
    if args.specaug is not None and criterion.frame_level:
        if specaug.get("apply_time_warp", True):
            raise ValueError(
                f"specaug_conf.apply_time_warp: must be false with pl_criterion "
                f"{args.pl_criterion!r}. Its target is one distribution per frame of "
                f"the clean audio, and time warping moves the student's frames away "
                f"from the teacher's"
            )
    if (args.encoder_conf or {}).get("ctc_trim"):
        raise ValueError(
            "encoder_conf.ctc_trim: drops frames as the model sees fit, "
            "so teacher and student would disagree; set it to false"
        )
    _check_loop_options(args)


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


def refuse(error: ValueError) -> NoReturn:
    """End the process with a message and status 2, as argparse does."""
    sys.stderr.write(f"{Path(sys.argv[0]).name}: error: {error}\n")
    sys.exit(2)


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
    train, _ = checks.speech_scp(
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
    if kind == "sound":
        checks.check_sample_rates({"unlabeled": unlabeled, "labeled": train})
    elif not args.unlabeled_shape_file:
        raise ValueError(
            f"unlabeled_shape_file: must be given for data of type {kind!r}; only of "
            f"'sound' can the lengths be read from the files"
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


def read_token_list(args: argparse.Namespace) -> list[str]:
    """Return the tokens, from a file or from a configuration that holds them."""
    if not isinstance(args.token_list, str):
        return list(args.token_list)
    if not Path(args.token_list).is_file():
        raise ValueError(f"token_list: {args.token_list} does not exist")
    with open(args.token_list, encoding="utf-8") as lines:
        return [line.rstrip() for line in lines]


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


def text_lengths_of(args: argparse.Namespace) -> dict[str, int] | None:
    """Read the number of tokens of the labeled utterances, if a shape file has it."""
    for path in args.train_shape_file:
        if Path(path).name.startswith("text_shape"):
            return checks.read_lengths(path)
    return None


def speech_lengths_of(args: argparse.Namespace) -> dict[str, int] | None:
    """Read the length of the labeled utterances, if a shape file has it."""
    for path in args.train_shape_file:
        if Path(path).name.startswith("speech_shape"):
            return checks.read_lengths(path)
    return None


def labeled_rate(args: argparse.Namespace) -> float:
    """Compute the labeled data's tokens per unit of audio (samples, for waveforms).

    Args:
        args: The parsed options; both shape files are needed.

    Returns:
        The rate, or NaN where a shape file is missing.
    """
    tokens, samples = text_lengths_of(args), speech_lengths_of(args)
    if not tokens or not samples:
        logger.warning(
            "pl_length_ratio is not known: it needs train_shape_file to name "
            "speech_shape and text_shape, as --collect_stats writes them"
        )
        return float("nan")
    return sum(tokens.values()) / sum(samples.values())


def check_targets_fit(model: SoftPLModel, args: argparse.Namespace) -> None:
    """Refuse labeled data whose transcripts are longer than their audio allows.

    Args:
        model: The model, on the CPU.
        args: The parsed options.

    Raises:
        UserError: More than `pl_max_bad_share` of the utterances have more tokens
            than frames. Fewer are named in the log; CTC gives them no gradient.
    """
    tokens, samples = text_lengths_of(args), speech_lengths_of(args)
    if not tokens or not samples or args.input_size is not None:
        return
    with teacher.evaluating(model):
        # Two probes give the frame rate and what the edges cost.
        short, long = 16000, 80000
        few, many = frames_of(model, short), frames_of(model, long)
    rate = (many - few) / (long - short)
    bad = {}
    for key, count in tokens.items():
        frames = int(few + (samples.get(key, short) - short) * rate)
        if count > frames:
            bad[key] = f"{key}: {count} tokens, about {frames} frames"
    what = "have more tokens than encoder frames (less subsampling, or cut the audio)"
    checks.check_bad_share(bad, len(tokens), args.pl_max_bad_share, what)
    if bad:
        logger.warning("No alignment for %s", checks.name_some(bad.values()))


def build_to_text(args: argparse.Namespace) -> Callable[[list[int]], str]:
    """Build the function that turns token ids into a transcript.

    Args:
        args: The parsed options.

    Returns:
        A function from token ids to text.

    Raises:
        ValueError: The token type has no inverse here.
    """
    if args.token_type not in ("char", "bpe", "word"):
        raise ValueError(
            f"unlabeled_oracle_text: needs token_type char, bpe or word, got "
            f"{args.token_type!r}"
        )
    converter = TokenIDConverter(token_list=read_token_list(args))
    tokenizer = build_tokenizer(token_type=args.token_type, bpemodel=args.bpemodel)
    return lambda ids: tokenizer.tokens2text(converter.ids2tokens(ids))


def build_pseudo_labeling(args: argparse.Namespace) -> PseudoLabeling:
    """Build the engine that the model learns from unlabeled batches with.

    Args:
        args: The parsed options, checked.

    Returns:
        The engine; its teacher is born at the first unlabeled batch.
    """
    oracle = None
    if args.unlabeled_oracle_text:
        oracle = Oracle(read_text(args.unlabeled_oracle_text), build_to_text(args))
    return PseudoLabeling(
        criterion=criteria.build(args.pl_criterion, **_conf_key("criterion", args)),
        generator=PseudoLabelGenerator(
            teacher.build(args.pl_teacher, **_conf_key("teacher", args)),
            filters.build(args.pl_filter, **_conf_key("filter", args)),
        ),
        oracle=oracle,
        labeled_tokens_per_sample=labeled_rate(args),
    )


def unlabeled_shape_files(args: argparse.Namespace) -> list[str]:
    """Return the unlabeled shape files, made from the audio's headers if not given.

    Args:
        args: The parsed options, checked.

    Returns:
        Paths of shape files.

    Raises:
        UserError: More than `pl_max_bad_share` of the files cannot be read. Fewer
            are named in the log, counted and left out.
    """
    if args.unlabeled_shape_file:
        return list(args.unlabeled_shape_file)
    entries, _ = checks.speech_scp(getattr(args, UNLABELED_DATA), UNLABELED_DATA)
    scan = checks.scan_audio(entries)
    checks.check_bad_share(
        scan.bad, len(entries), args.pl_max_bad_share, "cannot be read"
    )
    if scan.bad:
        logger.warning(
            "%d unlabeled utterances are left out: %s",
            len(scan.bad),
            checks.name_some(scan.bad.values(), most=len(scan.bad)),
        )
    path = Path(args.output_dir) / "unlabeled_shape"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Every process writes the same bytes, under a name of its own until it is whole.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    lines = [f"{key} {length}\n" for key, length in scan.samples.items()]
    temporary.write_text("".join(lines), encoding="utf-8")
    os.replace(temporary, path)
    return [str(path)]


class SoftPLTask(ASRTask):
    """ESPnet's ASR task with pseudo-labeling.

    Without `pl_criterion` it is the stock task. What it writes is stock either way:
    `config.yaml` names ESPnet's own model, and the checkpoints hold its parameters.
    """

    trainer = SoftPLTrainer

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the stock options and ours; see `add_pl_arguments`."""
        super().add_task_arguments(parser)
        add_pl_arguments(parser)

    @classmethod
    def required_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> tuple[str, ...]:
        """Return the data that every set must have: unlabeled sets have no text."""
        return ("speech",)

    @classmethod
    def optional_data_names(
        cls, train: bool = True, inference: bool = False
    ) -> tuple[str, ...]:
        """Return the data that a set may have."""
        return ("text", *super().optional_data_names(train, inference))

    @classmethod
    def check_required_command_args(cls, args: argparse.Namespace) -> None:
        """Check the options, and with pseudo-labeling the data, before any work."""
        super().check_required_command_args(args)
        try:
            check_names(args)
            if args.pl_criterion is None:
                return
            check_options(args)
            check_tokens(args)
            if not (args.collect_stats or args.dry_run):
                check_data(args)
        except ValueError as error:
            refuse(error)

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        """Train in this process; a user's mistake ends it without a traceback."""
        try:
            super().main_worker(args)
        except checks.UserError as error:
            refuse(error)

    @classmethod
    def build_model(cls, args: argparse.Namespace) -> ESPnetASRModel:
        """Build the model; with pseudo-labeling one that also takes unlabeled batches.

        Args:
            args: The parsed options. They are left as they are, so that `config.yaml`
                describes a stock model.

        Returns:
            The model.
        """
        if getattr(args, "pl_criterion", None) is None or args.collect_stats:
            return super().build_model(args)
        stock = args.model
        model_choices.classes["softpl"] = SoftPLModel
        args.model = "softpl"
        try:
            model = super().build_model(args)
        finally:
            args.model = stock
            del model_choices.classes["softpl"]
        check_targets_fit(model, args)
        model.pl = build_pseudo_labeling(args)
        if model.ctc_weight != 1.0 and not args.unused_parameters:
            # An unlabeled batch may leave the decoder without gradient.
            logger.info("Setting unused_parameters: true for distributed training")
            args.unused_parameters = True
        if model.specaug is None:
            logger.warning("No specaug: the student sees what the teacher sees")
        return model

    @classmethod
    def build_iter_factory(
        cls,
        args: argparse.Namespace,
        distributed_option: DistributedOption,
        mode: str,
        kwargs: dict | None = None,
    ) -> AbsIterFactory:
        """Build the mini-batches; of both kinds where pseudo-labeling trains.

        Args:
            args: The parsed options.
            distributed_option: ESPnet's description of the processes.
            mode: `train`, `valid` or `plot_att`.
            kwargs: Overrides of ESPnet's iterator options.

        Returns:
            A factory of each epoch's mini-batches.
        """
        labeled = super().build_iter_factory(args, distributed_option, mode, kwargs)
        if mode != "train" or args.pl_criterion is None:
            return labeled
        ours = copy.copy(args)
        # The stock sampler wants one fold length per shape file.
        ours.fold_length = args.fold_length[:1]
        unlabeled = super().build_iter_factory(
            ours,
            distributed_option,
            mode,
            dict(
                data_path_and_name_and_type=getattr(args, UNLABELED_DATA),
                shape_files=unlabeled_shape_files(args),
                batch_bins=args.unlabeled_batch_bins or args.batch_bins,
                batch_size=args.unlabeled_batch_size or args.batch_size,
            ),
        )
        return MixedIterFactory(
            labeled=labeled,
            unlabeled=unlabeled,
            schedule=Schedule(**args.pl_schedule_conf),
            seed=args.seed,
            num_iters_per_epoch=args.num_iters_per_epoch,
        )
