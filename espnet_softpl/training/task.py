"""The ESPnet task: stock ASR training plus pseudo-labeling options, model and data."""

from __future__ import annotations

import argparse
import functools
import logging
import math
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.iterators.abs_iter_factory import AbsIterFactory
from espnet2.tasks.asr import ASRTask, model_choices
from espnet2.train.distributed_utils import DistributedOption

from espnet_softpl.core import errors
from espnet_softpl.core.modules import drops_layers
from espnet_softpl.core.parsing import Answering
from espnet_softpl.core.processes import rank_and_world
from espnet_softpl.data import tables, usable_audio
from espnet_softpl.training import build, checks, hooks, inputs, lengths, options
from espnet_softpl.training.announcement import announce
from espnet_softpl.training.config import PLConfig
from espnet_softpl.training.iterator import MixedIterFactory
from espnet_softpl.training.model import SoftPLModel
from espnet_softpl.training.resume import interruption
from espnet_softpl.training.resume.checkpoints import sole_run
from espnet_softpl.training.trainer import SoftPLTrainer
from espnet_softpl.training.unlabeled import TableDataset, build_batches

logger = logging.getLogger(__name__)


class SoftPLTask(ASRTask):
    """ESPnet's ASR task with pseudo-labeling; without `pl_criterion` the stock task.

    What it writes is stock either way: `config.yaml` names ESPnet's own model, and the
    checkpoints hold its parameters.
    """

    trainer = SoftPLTrainer
    _config: PLConfig | None = None  # Of the model that was built last.

    @classmethod
    def get_parser(cls) -> argparse.ArgumentParser:
        """Return ESPnet's parser, which names the nearest to an unknown option."""
        parser = super().get_parser()
        # ESPnet makes it itself, of a class of its own.
        parser.__class__ = type("Parser", (Answering, type(parser)), {})
        return parser

    @classmethod
    def add_task_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """Add the stock options and ours."""
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
        missing = [f"--{name}" for name in args.required if vars(args)[name] is None]
        if missing:  # ESPnet shows all of its help.
            what = f"{' and '.join(missing)} must be given, here or in --config FILE"
            errors.refuse(what)
        super().check_required_command_args(args)
        options.prefer_command_line(args)
        try:
            inputs.check_stock_types(args)
            checks.check_names(args)
            inputs.check_base_models(args)
            if args.pl_criterion is not None:
                checks.check_options(args)
                checks.check_tokens(args)
            if args.collect_stats or args.dry_run:
                return
            checks.check_gpus(args)
            if args.pl_criterion is not None:
                checks.check_data(args)
        except errors.UserError as error:
            errors.refuse(error)

    @classmethod
    def main(
        cls, args: argparse.Namespace | None = None, cmd: Sequence[str] | None = None
    ) -> None:
        """Train as the options say; a signal to end goes to all processes."""
        with interruption.terminating_children():
            super().main(args=args, cmd=cmd)

    @classmethod
    def main_worker(cls, args: argparse.Namespace) -> None:
        """Train; end by a message and status: 2 mistake, 3 guard, 4 machine's fault."""
        try:
            try:
                with sole_run(args):
                    super().main_worker(args)
            except errors.UserError as error:
                errors.refuse(error)
            except errors.CollapseError as error:
                errors.refuse(error, status=3)
            except (OSError, RuntimeError) as error:
                cls._end_by_fault(error, args)
        except RuntimeError as error:
            # If two loader processes die at once, torch raises the second in the
            # middle of what is done about the first.
            cls._end_by_fault(error, args)

    @classmethod
    def _end_by_fault(cls, error: Exception, args: argparse.Namespace) -> NoReturn:
        """End with a message if the machine is at fault, else raise the error."""
        # If a loader's process has died, torch raises the death of the next one
        # wherever this process then is, and would put its status in place of ours.
        before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        reason = args.pl_criterion and interruption.explain_fault(
            error, Path(args.output_dir)
        )
        if not reason:
            signal.signal(signal.SIGCHLD, before)
            raise error
        logger.error("Where it happened:", exc_info=error)
        errors.release(error)
        errors.refuse(reason, status=4)

    @classmethod
    def build_student(cls, args: argparse.Namespace) -> SoftPLModel:
        """Build the model without an engine for pseudo-labeling.

        ESPnet completes `args`, the parsed options or those of a `config.yaml`, as for
        its own model.
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
        """Build the model; with `pl_criterion` one that takes unlabeled batches too."""
        if getattr(args, "pl_criterion", None) is None or args.collect_stats:
            return super().build_model(args)
        model = cls.build_student(args)
        config = cls._config = PLConfig.from_args(args)
        tokens_per_sample = float("nan")
        if labeled := lengths.labeled_lengths(args):
            tokens, samples = labeled
            tokens_per_sample = sum(tokens.values()) / sum(samples.values())
            if args.input_size is None:
                checks.check_targets_fit(model, tokens, samples, args.pl_max_bad_share)
        model.pl = build.build_pseudo_labeling(config, model, tokens_per_sample)
        if getattr(args, options.UNLABELED_DATA):
            lengths.write_usable(args, model)
            model.pl.samples = build.build_samples(config)
        if args.pl_separate_head:
            hooks.add_head(model)
        inputs.check_base_fits(args, model)
        inputs.check_trainable(args, model)
        # A batch may leave a decoder, one of two heads or a layer without gradient.
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
        """Build the mini-batches; of both kinds if pseudo-labeling trains."""
        labeled = super().build_iter_factory(args, distributed_option, mode, kwargs)
        if args.pl_criterion is None:
            return labeled
        rate = lengths.sample_rate(args)
        labeled.dataset = usable_audio.StrictAudio(labeled.dataset, sample_rate=rate)
        if mode != "train":
            return interruption.SigtermTolerantFactory(labeled)
        config = cls._config
        if config is None or config.args is not args:
            config = PLConfig.from_args(args)
        shape_file = lengths.usable_shape_file(args)
        samples = tables.kept_lengths(shape_file)
        data = cls.build_iter_options(args, distributed_option, mode)
        data.data_path_and_name_and_type = getattr(args, options.UNLABELED_DATA)
        data.shape_files = [str(shape_file)]
        data.batch_bins = args.unlabeled_batch_bins or args.batch_bins
        data.batch_size = args.unlabeled_batch_size or args.batch_size
        batches = build_batches(args, data, samples)
        dataset = TableDataset(
            data.data_path_and_name_and_type,
            float_dtype=args.train_dtype,
            max_cache_size=data.max_cache_size,
            max_cache_fd=data.max_cache_fd,
            allow_multi_rates=data.allow_multi_rates,
        )
        cls.check_task_requirements(dataset, args.allow_variable_data_keys, train=True)
        # The teacher hears clean audio, always.
        clean = cls.build_preprocess_fn(args, train=False)
        if inputs.augmentation(args):
            clean = usable_audio.CleanAndAugmented(clean, data.preprocess_fn)
        dataset.preprocess = clean
        usable = usable_audio.UsableAudio(
            dataset,
            samples,
            min_samples=int(samples.counts.min()),
            sample_shape=() if args.input_size is None else (args.input_size,),
            sample_rate=rate,
        )
        plan = config.cache and functools.partial(config.cache.plan, seed=args.seed)
        mixed = MixedIterFactory(
            labeled,
            usable,
            batches,
            schedule=config.schedule,
            seed=args.seed,
            num_iters_per_epoch=args.num_iters_per_epoch,
            make_plan=plan,
            usable_share=usable_audio.UsableShare(args.pl_max_bad_share),
            accum_grad=args.accum_grad,
        )
        steps = args.max_epoch * mixed.num_iters_per_epoch
        config.teacher.begin_run(config.schedule.updates(steps, args.accum_grad))
        filling = 0 if mixed.plan is None else mixed.plan.size
        checks.check_schedule(config.schedule, args.seed, steps, filling)
        if rank_and_world()[0] == 0:
            hours = int(samples.counts.sum()) / 3600 / rate
            hours = hours if args.input_size is None else math.nan
            size = (steps, len(batches), len(samples), hours)
            logger.info("%s", announce(config, *size))
        return interruption.SigtermTolerantFactory(mixed)
