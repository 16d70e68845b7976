"""ESPnet's trainer, with a teacher that follows real updates, saved and resumed."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any

from espnet2.train.trainer import Trainer

from espnet_softpl.core import processes
from espnet_softpl.core.errors import CollapseError, UserError
from espnet_softpl.core.files import load_state, save_atomically
from espnet_softpl.training import guarding, reports
from espnet_softpl.training.engine import PseudoLabeling
from espnet_softpl.training.model import SoftPLModel
from espnet_softpl.training.publishing import Publisher, find_receivers
from espnet_softpl.training.reports import EpochLine
from espnet_softpl.training.resume import (
    checkpoints,
    interruption,
    settings,
    snapshot,
)
from espnet_softpl.training.resume.layout import TEACHER
from espnet_softpl.training.resume.snapshot import Training
from espnet_softpl.training.updates import GradientLog, only_taught

logger = logging.getLogger(__name__)


class SoftPLTrainer(Trainer):
    """The stock trainer, plus what a teacher needs around it.

    The training loop is ESPnet's own: the teacher follows the optimizer through a
    hook that fires only on real updates (not on skipped ones under mixed precision,
    non-finite gradients or gradient accumulation). A model without a `pl` engine is
    trained as ever.
    """

    stop = interruption.StopRequest()
    idle_epoch: int | None = None  # That ended without a single update.
    line: EpochLine  # About the epoch that is trained.
    publisher: Publisher | None = None  # Of the first process.

    @classmethod
    def run(cls, **kwargs: Any) -> None:
        """Train; see `espnet2.train.trainer.Trainer.run`.

        Raises:
            CollapseError: The guard stops it; it has learned nothing, at the end; or no
                gradient of an epoch was finite.
        """
        cls.idle_epoch = cls.publisher = None
        engine = getattr(kwargs["model"], "pl", None)
        if engine is not None:
            cls._prepare(engine, **kwargs)
        signals = contextlib.nullcontext() if engine is None else cls.stop.on_signals()
        # A stock training too leaves no torn checkpoint at a kill, which would end
        # every attempt to resume.
        with signals, checkpoints.whole_files():
            super().run(**kwargs)
        if engine is not None:
            output_dir = Path(kwargs["trainer_options"].output_dir)
            weights = engine.generator.teacher.state_dict().get("model")
            if processes.rank_and_world()[0] == 0 and weights is not None:
                save_atomically(weights, output_dir / TEACHER)
                logger.info("The teacher was saved as %s", output_dir / TEACHER)
            guarding.judge_run(engine)
        if cls.idle_epoch is not None:  # ESPnet has stopped, with a warning only.
            raise CollapseError(
                f"training is stopped: epoch {cls.idle_epoch} made no update, for none "
                "of its gradients was finite. Try a lower learning rate (optim_conf), "
                "longer warm-up steps, or use_amp false"
            )

    @classmethod
    def _prepare(cls, engine: PseudoLabeling, **kwargs: Any) -> None:
        """Make directory, options and hooks fit for a training with pseudo-labels."""
        options = kwargs["trainer_options"]
        output_dir = Path(options.output_dir)
        if options.use_amp and options.ngpu == 0:
            # ESPnet leaves it to the scaler to skip an update that is not finite; on
            # a CPU the scaler is disabled, and lets it through.
            logger.warning("use_amp is for GPUs: training goes on in float32")
            options.use_amp = False
        processes.on_first_process(
            lambda: checkpoints.begin_directory(output_dir, options)
        )
        same = (options.resume, engine.allow_changed_resume)
        processes.on_first_process(
            lambda: settings.check(output_dir, engine.settings, *same)
        )
        if options.resume:
            last_epoch = checkpoints.early_stop(
                output_dir, options.patience, options.early_stopping_criterion
            )
            # Killed after its last epoch: there is nothing left to train.
            options.max_epoch = last_epoch or options.max_epoch
        kwargs["optimizers"][0].register_step_post_hook(
            lambda *_: engine.generator.teacher.update(kwargs["model"])
        )
        factory = kwargs["train_iter_factory"].factory
        options.accum_grad = factory.update_steps  # Mini-batches of one update.
        if engine.cache is not None:
            engine.cache.plan = factory.plan
            factory.evicted = engine.cache.evicted
        cls.line = EpochLine(options.max_epoch)

    @classmethod
    def train_one_epoch(cls, **kwargs: Any) -> bool:
        """Train one epoch, or the rest of it, under the guard's eyes if there is one.

        Returns:
            Whether no step could be made.

        Raises:
            Interrupted: A signal came; everything is saved.
        """
        model = getattr(kwargs["model"], "module", kwargs["model"])
        epoch = kwargs["reporter"].get_epoch()
        kwargs["iterator"] = reports.progress(kwargs["iterator"], epoch)
        with reports.logging_above(kwargs["iterator"]):
            if getattr(model, "pl", None) is None:
                invalid = super().train_one_epoch(**kwargs)
            else:
                invalid = cls._train_with_labels(model, kwargs)
        if invalid:
            cls.idle_epoch = epoch
        return invalid

    @classmethod
    def _train_with_labels(cls, model: SoftPLModel, kwargs: dict[str, Any]) -> bool:
        options, reporter = kwargs["options"], kwargs["reporter"]
        parts = {key: kwargs[key] for key in ("optimizers", "schedulers", "scaler")}
        for optimizer in parts["optimizers"]:
            # Mini-batches that were left over for accumulation would go into the next
            # epoch's first step, unless the run was resumed in between.
            optimizer.zero_grad()
        epoch, output_dir = reporter.get_epoch(), Path(options.output_dir)
        training = Training(model, output_dir, epoch, reporter=reporter, **parts)
        gradients = GradientLog(training, options.grad_clip, options.accum_grad)

        def after_step() -> None:
            gradients.after_step()
            if model.pl.guard is not None:
                guarding.consult_guard(training)

        batches = interruption.StoppableIterator(
            kwargs["iterator"],
            cls.stop,
            options.accum_grad,
            after_step=after_step,
            random_state=snapshot.random_state,
        )
        if cls.publisher is None and processes.rank_and_world()[0] == 0:
            shown = kwargs["summary_writer"], options.use_wandb
            cls.publisher = Publisher(output_dir, find_receivers(output_dir, *shown))
        cls.line.begin(model.pl)
        valid = False
        done = snapshot.find_interruption(output_dir, epoch)
        if done is None:
            cls._begin_epoch(training)
        else:
            valid = cls._go_on(training, batches, done)
        kwargs["iterator"] = batches
        try:
            with only_taught(training, options.accum_grad), reports.at_once(reporter):
                valid = not super().train_one_epoch(**kwargs) or valid
        finally:  # An alarm may end the training.
            if cls.publisher is not None:
                cls.publisher.after_training(reporter)
        gradients.end_epoch()
        cls.line.after_training(reporter, model.pl)
        if processes.any_process(cls.stop.is_set and not batches.complete):
            if batches.done > 0:
                snapshot.save_interruption(
                    training, batches.done, valid, batches.random
                )
            # Who has started them gives the others 30 s once the first has ended.
            processes.wait_for_all()
            raise interruption.Interrupted(cls.stop.status)
        guarding.warn_if_idle(training)
        return not valid

    @staticmethod
    def _go_on(
        training: Training, batches: interruption.StoppableIterator, done: int
    ) -> bool:
        """Restore an epoch stopped after `done` mini-batches; tell if any was valid."""
        if done > len(batches):
            raise UserError(
                f"cannot resume: epoch {training.epoch} was stopped after {done} "
                f"mini-batches and now has {len(batches)} (num_iters_per_epoch, or the "
                f"data). {snapshot.ADVICE}"
            )
        state = snapshot.load(training, f"{done}batches")
        logger.info("Epoch %d goes on after %d mini-batches", training.epoch, done)
        batches.skip = done
        batches.begin = lambda: snapshot.set_random_state(state["random"])
        if training.model.pl.healthy_epoch is None:
            # The guard has only now been told to back off, and needs a place.
            guarding.keep_healthy(training)
        return state["valid"]

    @staticmethod
    def _begin_epoch(training: Training) -> None:
        """Let a teacher that averages epochs see them, and a back-off return here."""
        teacher = training.model.pl.generator.teacher
        if teacher.keep:
            # The first process may still be writing the last epoch.
            processes.wait_for_all()
            output_dir = training.output_dir
            teacher.begin_epoch(
                training.model,
                checkpoints.finished_epochs(output_dir, teacher.criterion),
                lambda epoch: load_state(output_dir / f"{epoch}epoch.pth"),
            )
        guarding.keep_healthy(training)

    @classmethod
    def validate_one_epoch(cls, **kwargs: Any) -> None:
        """Validate, then save the snapshot that belongs to this epoch's end."""
        super().validate_one_epoch(**kwargs)
        model = getattr(kwargs["model"], "module", kwargs["model"])
        if getattr(model, "pl", None) is not None:
            place = Path(kwargs["options"].output_dir), kwargs["reporter"].get_epoch()
            snapshot.save_epoch_end(Training(model, *place))
            # Or a checkpoint could be newer than another's snapshot.
            processes.wait_for_all()
            line = cls.line.after_validation(kwargs["reporter"], model.pl)
            if cls.publisher is not None:
                logger.info("%s", line)
                cls.publisher.after_validation(kwargs["reporter"])

    @staticmethod
    def resume(**kwargs: Any) -> None:
        """Resume from ESPnet's checkpoint and the snapshot of the same epoch."""
        Trainer.resume(**kwargs)
        if getattr(kwargs["model"], "pl", None) is not None:
            output_dir = Path(kwargs["checkpoint"]).parent
            epoch = kwargs["reporter"].get_epoch()
            snapshot.load(Training(kwargs["model"], output_dir, epoch))
