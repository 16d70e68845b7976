"""The ESPnet task: stock ASR training plus pseudo-labeling options, model and data."""

from __future__ import annotations

import argparse
import copy
import logging
import math
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import humanfriendly
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.tasks.asr import ASRTask, model_choices
from espnet2.text.build_tokenizer import build_tokenizer
from espnet2.text.token_id_converter import TokenIDConverter
from espnet2.train.distributed_utils import DistributedOption

from espnet_softpl import checks, faults, guard, options, teacher
from espnet_softpl.cache import CACHE_DIR, LabelCache
from espnet_softpl.config_lists import prefer_command_line
from espnet_softpl.dropout import DropoutSwitch, dropouts, drops_layers
from espnet_softpl.filters import Filter
from espnet_softpl.generator import PseudoLabelGenerator
from espnet_softpl.interruption import LastingFactory, terminating_children
from espnet_softpl.iterator import MixedIterFactory
from espnet_softpl.kaldi_dir import atomic_write
from espnet_softpl.model import SoftPLModel, frames_of
from espnet_softpl.oracle import Oracle
from espnet_softpl.processes import rank_and_world
from espnet_softpl.pseudo_labeling import PseudoLabeling
from espnet_softpl.samples import SampleRecorder, choose
from espnet_softpl.trainer import SoftPLTrainer
from espnet_softpl.usable_audio import (
    StrictAudio,
    UsableAudio,
    UsableShare,
    smallest_input,
)

logger = logging.getLogger(__name__)

TEXT_TYPES = ("char", "bpe", "word")  # Tokens of these make a text again.


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


def sample_rate(args: argparse.Namespace) -> int:
    """Return the sample rate of the audio in Hz, as the front end has it."""
    rate = (args.frontend_conf or {}).get("fs", 16000)
    # ESPnet takes "16k" as well.
    return humanfriendly.parse_size(rate) if isinstance(rate, str) else int(rate)


def unlabeled_lengths(args: argparse.Namespace) -> dict[str, int]:
    """Return the lengths of the unlabeled utterances, from their headers if not given.

    Args:
        args: The parsed options, checked.

    Returns:
        Samples (frames of features) by utterance id.

    Raises:
        UserError: More than `pl_max_bad_share` of the files cannot be used: they are
            unreadable or empty, or have another shape than the model takes. Fewer are
            named in the log, counted and left out.
    """
    if args.unlabeled_shape_file:
        lengths: dict[str, int] = {}
        for path in args.unlabeled_shape_file:
            lengths.update(checks.read_lengths(path))
        return lengths
    entries, kind = checks.speech_scp(
        getattr(args, options.UNLABELED_DATA), options.UNLABELED_DATA
    )
    scan = checks.scan_audio(entries, kind, args.input_size)
    checks.check_bad_share(
        scan.bad, len(entries), args.pl_max_bad_share, "cannot be used"
    )
    if scan.bad:
        logger.warning(
            "%d unlabeled utterances are left out: %s",
            len(scan.bad),
            checks.name_some(scan.bad.values(), most=len(scan.bad)),
        )
    return scan.samples


def write_lengths(lengths: dict[str, int], path: Path) -> None:
    """Write an ESPnet shape file, of which every process writes the same bytes."""
    with atomic_write(path) as stream:
        stream.writelines(f"{key} {length}\n" for key, length in lengths.items())


def write_usable(args: argparse.Namespace, model: SoftPLModel) -> None:
    """Write the lengths of the unlabeled utterances that the model can take.

    Args:
        args: The parsed options, checked.
        model: The model, on the CPU.

    Raises:
        UserError: More than `pl_max_bad_share` of them are too short for a frame.
            Fewer are named in the log and left out. Or the run is resumed with data
            that lack what it began with.
    """
    file = usable_shape_file(args)
    if args.resume and file.exists():
        # Audio that has gone bad since must not change the mini-batches.
        entries, _ = checks.speech_scp(
            getattr(args, options.UNLABELED_DATA), options.UNLABELED_DATA
        )
        missing = set(checks.read_lengths(file)) - set(entries)
        if missing:
            raise checks.UserError(
                f"cannot resume: {len(missing)} unlabeled utterances that the run "
                f"began with ({file}) are not in {options.UNLABELED_DATA} any more: "
                f"{checks.name_some(missing)}. Start again in a new --output_dir."
            )
        return
    lengths = unlabeled_lengths(args)
    dim = args.input_size
    with teacher.evaluating(model):
        # Batch norm fails where a mini-batch is one utterance of one frame.
        fewest = smallest_input(
            lambda n: frames_of(model, n, dim), 64000 if dim is None else 400, frames=2
        )
    short = {k: f"{k}: {n}" for k, n in lengths.items() if n < fewest}
    unit = "samples" if dim is None else "frames of features"
    what = f"have fewer than the {fewest} {unit} that make two frames of the encoder"
    checks.check_bad_share(short, len(lengths), args.pl_max_bad_share, what)
    if short:
        logger.warning(
            "%d unlabeled utterances %s, and are left out: %s",
            len(short),
            what,
            checks.name_some(short.values()),
        )
    write_lengths({key: n for key, n in lengths.items() if key not in short}, file)


def usable_shape_file(args: argparse.Namespace) -> Path:
    """Name the file that `write_usable` writes."""
    return Path(args.output_dir) / "unlabeled_shape"


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
        prefer_command_line(args)
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
    def main(
        cls, args: argparse.Namespace | None = None, cmd: Sequence[str] | None = None
    ) -> None:
        """Train as the options say; a signal to end goes to all processes."""
        with terminating_children():
            super().main(args=args, cmd=cmd)

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        """Train in this process.

        A user's mistake ends it with status 2, the guard with 3, and a fault of the
        machine with 4, each with a message instead of a traceback.
        """
        try:
            try:
                super().main_worker(args)
            except checks.UserError as error:
                options.refuse(error)
            except checks.CollapseError as error:
                options.refuse(error, status=3)
            except (OSError, RuntimeError) as error:
                cls._end_by_fault(error, args)
        except RuntimeError as error:
            # Where two loader processes die at once, torch raises the second in the
            # middle of what is done about the first.
            cls._end_by_fault(error, args)

    @classmethod
    def _end_by_fault(cls, error: Exception, args: argparse.Namespace) -> NoReturn:
        """End with a message where the machine is at fault, else raise the error."""
        # Where a loader's process has died, torch raises the death of the next one
        # wherever this process then is, and would put its status in place of ours.
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        reason = args.pl_criterion and faults.explain(error, Path(args.output_dir))
        if not reason:
            signal.signal(signal.SIGCHLD, before)
            raise error
        logger.error("Where it happened:", exc_info=error)
        options.refuse(reason, status=4)

    @classmethod
    def build_student(cls, args: argparse.Namespace) -> SoftPLModel:
        """Build the model without an engine for pseudo-labeling.

        Args:
            args: The parsed options, or those of an experiment's `config.yaml`; after
                this they are what ESPnet makes of them for its own model.

        Returns:
            The model.
        """
        stock = args.model
        model_choices.classes["softpl"] = SoftPLModel
        args.model = "softpl"
        try:
            return super().build_model(args)
        finally:
            args.model = stock
            del model_choices.classes["softpl"]

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
        model = cls.build_student(args)
        labeled_rate = float("nan")
        lengths = labeled_lengths(args)
        if lengths is not None:
            tokens, samples = lengths
            labeled_rate = sum(tokens.values()) / sum(samples.values())
            if args.input_size is None:
                check_targets_fit(model, tokens, samples, args.pl_max_bad_share)
        model.pl = build_pseudo_labeling(args, model, labeled_rate)
        if getattr(args, options.UNLABELED_DATA):
            write_usable(args, model)
            model.pl.samples = build_samples(args, model.pl.filters)
        if args.pl_separate_head:
            model.add_unlabeled_head()
        # A batch may leave the decoder, one of two heads or a dropped layer without
        # gradient.
        partly = model.decoder is not None or args.pl_separate_head
        if (partly or drops_layers(model)) and not args.unused_parameters:
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
        if args.pl_criterion is None:
            return labeled
        if mode != "train":
            return LastingFactory(labeled)
        rate = sample_rate(args)
        labeled.dataset = StrictAudio(labeled.dataset, sample_rate=rate)
        ours = copy.copy(args)
        # The stock sampler wants one fold length per shape file.
        ours.fold_length = args.fold_length[:1]
        shape_file = str(usable_shape_file(args))
        unlabeled = super().build_iter_factory(
            ours,
            distributed_option,
            mode,
            dict(
                data_path_and_name_and_type=getattr(args, options.UNLABELED_DATA),
                shape_files=[shape_file],
                batch_bins=args.unlabeled_batch_bins or args.batch_bins,
                batch_size=args.unlabeled_batch_size or args.batch_size,
            ),
        )
        lengths = checks.read_lengths(shape_file)
        unlabeled.dataset = UsableAudio(
            unlabeled.dataset,
            lengths,
            min_samples=min(lengths.values()),
            sample_shape=() if args.input_size is None else (args.input_size,),
            sample_rate=rate,
        )
        settings = options.build_cache(args)
        return LastingFactory(
            MixedIterFactory(
                labeled=labeled,
                unlabeled=unlabeled,
                schedule=options.build_schedule(args),
                seed=args.seed,
                num_iters_per_epoch=args.num_iters_per_epoch,
                make_plan=settings
                and (lambda batches: settings.plan(batches, args.seed)),
                usable_share=UsableShare(args.pl_max_bad_share),
            )
        )
