"""The ESPnet task: stock ASR training plus pseudo-labeling options, model and data."""

from __future__ import annotations

import argparse
import copy
import logging
import os
from collections.abc import Callable
from pathlib import Path

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.tasks.asr import ASRTask, model_choices
from espnet2.text.build_tokenizer import build_tokenizer
from espnet2.text.token_id_converter import TokenIDConverter
from espnet2.train.distributed_utils import DistributedOption

from espnet_softpl import checks, filters, guard, options, teacher
from espnet_softpl.generator import PseudoLabelGenerator
from espnet_softpl.iterator import MixedIterFactory
from espnet_softpl.model import SoftPLModel, frames_of
from espnet_softpl.oracle import Oracle, read_text
from espnet_softpl.pseudo_labeling import PseudoLabeling
from espnet_softpl.schedule import Schedule
from espnet_softpl.trainer import SoftPLTrainer

logger = logging.getLogger(__name__)


def labeled_lengths(
    args: argparse.Namespace,
) -> tuple[dict[str, int], dict[str, int]] | None:
    """Read the lengths of the labeled utterances from the shape files.

    Args:
        args: The parsed options.

    Returns:
        Tokens and samples by utterance id, or None where `train_shape_file` does not
        name both, as `--collect_stats` and ESPnet's recipes name them.
    """
    found = {
        what: checks.read_lengths(path)
        for path in reversed(args.train_shape_file)
        for what in ("text", "speech")
        if Path(path).name.startswith(f"{what}_shape")
    }
    if not found.get("text") or not found.get("speech"):
        logger.warning(
            "pl_length_ratio is not known: it needs train_shape_file to name "
            "speech_shape and text_shape, as --collect_stats writes them"
        )
        return None
    return found["text"], found["speech"]


def check_targets_fit(
    model: SoftPLModel, tokens: dict[str, int], samples: dict[str, int], most: float
) -> None:
    """Refuse labeled data whose transcripts are longer than their audio allows.

    Args:
        model: The model, on the CPU; it takes waveforms.
        tokens: Tokens by utterance id.
        samples: Samples by utterance id.
        most: Largest share of such utterances, in [0, 1].

    Raises:
        UserError: More than that share of the utterances have more tokens than
            frames. Fewer are named in the log; CTC gives them no gradient.
    """
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
    checks.check_bad_share(bad, len(tokens), most, what)
    if bad:
        logger.warning("No alignment for %s", checks.name_some(bad.values()))


def build_to_text(args: argparse.Namespace) -> Callable[[list[int]], str]:
    """Build the function that turns token ids into a transcript.

    Args:
        args: The parsed options.

    Returns:
        A function from token ids to text.

    Raises:
        UserError: The token type has no inverse here.
    """
    if args.token_type not in ("char", "bpe", "word"):
        raise checks.UserError(
            f"unlabeled_oracle_text: needs token_type char, bpe or word, got "
            f"{args.token_type!r}"
        )
    converter = TokenIDConverter(token_list=options.read_token_list(args))
    tokenizer = build_tokenizer(token_type=args.token_type, bpemodel=args.bpemodel)
    return lambda ids: tokenizer.tokens2text(converter.ids2tokens(ids))


def build_pseudo_labeling(
    args: argparse.Namespace, labeled_tokens_per_sample: float
) -> PseudoLabeling:
    """Build the engine that the model learns from unlabeled batches with.

    Args:
        args: The parsed options, checked.
        labeled_tokens_per_sample: Speech rate of the labeled data, NaN if unknown.

    Returns:
        The engine; its teacher is born at the first unlabeled batch.
    """
    oracle = None
    if args.unlabeled_oracle_text:
        oracle = Oracle(read_text(args.unlabeled_oracle_text), build_to_text(args))
    return PseudoLabeling(
        criterion=options.build_criterion(args),
        generator=PseudoLabelGenerator(
            teacher.build(args.pl_teacher, **options.conf_of("teacher", args))
        ),
        regularizers=options.build_regularizers(args),
        shaping=options.build_shaping(args),
        trust=filters.build(args.pl_filter, **options.conf_of("filter", args)),
        oracle=oracle,
        guard=guard.build(args.pl_guard, **options.conf_of("guard", args)),
        labeled_tokens_per_sample=labeled_tokens_per_sample,
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
    entries, _ = checks.speech_scp(
        getattr(args, options.UNLABELED_DATA), options.UNLABELED_DATA
    )
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
        """Add the stock options and ours; see `options`."""
        super().add_task_arguments(parser)
        options.add_pl_arguments(parser)

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
            options.check_names(args)
            if args.pl_criterion is None:
                return
            options.check_options(args)
            options.check_tokens(args)
            if not (args.collect_stats or args.dry_run):
                options.check_data(args)
        except ValueError as error:
            options.refuse(error)

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        """Train in this process; a user's mistake ends it without a traceback."""
        try:
            super().main_worker(args)
        except checks.UserError as error:
            options.refuse(error)
        except checks.CollapseError as error:
            options.refuse(error, status=3)

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
        labeled_rate = float("nan")
        lengths = labeled_lengths(args)
        if lengths is not None:
            tokens, samples = lengths
            labeled_rate = sum(tokens.values()) / sum(samples.values())
            if args.input_size is None:
                check_targets_fit(model, tokens, samples, args.pl_max_bad_share)
        model.pl = build_pseudo_labeling(args, labeled_rate)
        if args.pl_separate_head:
            model.add_unlabeled_head()
        partly = model.decoder is not None or args.pl_separate_head
        if partly and not args.unused_parameters:
            # A batch may leave the decoder, or one of two heads, without gradient.
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
                data_path_and_name_and_type=getattr(args, options.UNLABELED_DATA),
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
