"""ESPnet's trainer, with a teacher that follows real updates, saved and resumed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from espnet2.train.trainer import Trainer

from espnet_softpl.core import files
from espnet_softpl.core.files import save_atomically
from espnet_softpl.core.processes import (
    any_process,
    on_first_process,
    rank_and_world,
    wait_for_all,
)
from espnet_softpl.training.resume import checkpoints, interruption
from espnet_softpl.training.resume.interruption import (
    Interrupted,
    StoppableIterator,
    Training,
)
from espnet_softpl.training.resume.layout import (
    TEACHER,
)
from espnet_softpl.training.resume.side_state import (
    begin_directory,
    load_state,
    save_state,
)
from espnet_softpl.training.watch import Watch, WatchedIterator, save_healthy

logger = logging.getLogger(__name__)


class SoftPLTrainer(Trainer):
    """The stock trainer, plus what a teacher needs around it.

    The training loop is ESPnet's own: the teacher follows the optimizer through a
    hook that fires only on real updates (not on skipped ones under mixed precision,
    non-finite gradients or gradient accumulation).

    Attributes:
        told_to_stop: Set when the process has got SIGTERM.
    """

    told_to_stop = interruption.Flag()

    @classmethod
    def run(
        cls,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        trainer_options: Any,
        **kwargs: Any,
    ) -> None:
        """Train; see `espnet2.train.trainer.Trainer.run`.

        Args:
            model: A `SoftPLModel`, or a stock model, which is trained as ever.
            optimizers: One optimizer.
            trainer_options: ESPnet's options.
            **kwargs: The stock trainer's other arguments.
        """
        engine = getattr(model, "pl", None)
        if engine is None:
            super().run(
                model=model,
                optimizers=optimizers,
                trainer_options=trainer_options,
                **kwargs,
            )
            return
        if trainer_options.use_amp and trainer_options.ngpu == 0:
            # ESPnet leaves it to the scaler to skip an update that is not finite; on
            # a CPU the scaler is disabled, and lets it through.
            logger.warning("use_amp is for GPUs: training goes on in float32")
            trainer_options.use_amp = False
        output_dir = Path(trainer_options.output_dir)
        on_first_process(lambda: begin_directory(output_dir, trainer_options))
        if trainer_options.resume and checkpoints.stopped_early(
            output_dir,
            trainer_options.patience,
            trainer_options.early_stopping_criterion,
        ):
            # Killed after its last epoch: there is nothing left to train.
            trainer_options.max_epoch = checkpoints.epoch_of(output_dir)
        optimizers[0].register_step_post_hook(
            lambda *_: engine.generator.teacher.update(model)
        )
        if engine.cache is not None:
            factory = kwargs["train_iter_factory"].factory
            engine.cache.follow(factory.plan)
            factory.left = engine.cache.left
        with cls.told_to_stop.listening():
            super().run(
                model=model,
                optimizers=optimizers,
                trainer_options=trainer_options,
                **kwargs,
            )
        if rank_and_world()[0] == 0:
            cls.export_teacher(model, output_dir)

    @staticmethod
    def export_teacher(model: torch.nn.Module, output_dir: Path) -> None:
        """Write the teacher as a stock ESPnet model file, `teacher.pth`.

        Args:
            model: A `SoftPLModel` with an engine.
            output_dir: The experiment directory.
        """
        weights = model.pl.generator.teacher.state_dict().get("model")
        if weights is not None:
            save_atomically(weights, output_dir / TEACHER)
            logger.info("The teacher was saved as %s", output_dir / TEACHER)

    @classmethod
    def train_one_epoch(
        cls,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        schedulers: Sequence[Any],
        iterator: Any,
        reporter: Any,
        scaler: Any,
        options: Any,
        **kwargs: Any,
    ) -> bool:
        """Train one epoch, or the rest of it, under the guard's eyes if there is one.

        Args:
            model: The model, possibly wrapped for distribution.
            optimizers: One optimizer.
            schedulers: Its scheduler.
            iterator: The epoch's mini-batches.
            reporter: ESPnet's reporter of this epoch.
            scaler: Of mixed precision, or None.
            options: ESPnet's options.
            **kwargs: The stock trainer's other arguments.

        Returns:
            Whether no step could be made.

        Raises:
            Interrupted: The process was told to stop; everything is saved.
        """
        bare = getattr(model, "module", model)
        parts = dict(optimizers=optimizers, schedulers=schedulers, scaler=scaler)

        def train(batches: Any) -> bool:
            return super(SoftPLTrainer, cls).train_one_epoch(
                model=model,
                iterator=batches,
                reporter=reporter,
                options=options,
                **parts,
                **kwargs,
            )

        if getattr(bare, "pl", None) is None:
            return train(iterator)
        for optimizer in optimizers:
            # Mini-batches that were left over for accumulation would go into the next
            # epoch's first step, unless the run was resumed in between.
            optimizer.zero_grad()
        epoch, output_dir = reporter.get_epoch(), Path(options.output_dir)
        training = Training(bare, reporter=reporter, **parts)
        batches, valid = cls._batches(training, iterator, options)
        watched: Any = batches
        if bare.pl.guard is not None:
            watch = Watch(bare, optimizers, reporter, output_dir)
            watched = WatchedIterator(batches, watch.after_step)
        valid = not train(watched) or valid
        if any_process(cls.told_to_stop.is_set and not batches.complete):
            if batches.done > 0:
                interruption.save_interruption(
                    training, output_dir, epoch, batches.done, valid
                )
            raise Interrupted
        return not valid

    @classmethod
    def _batches(
        cls, training: Training, iterator: Any, options: Any
    ) -> tuple[StoppableIterator, bool]:
        """Begin an epoch, or go on in it where a run was told to stop.

        Returns:
            The mini-batches, and whether some that were trained on before changed the
            model.
        """
        output_dir = Path(options.output_dir)
        epoch, engine = training.reporter.get_epoch(), training.model.pl
        done = interruption.find_interruption(output_dir, epoch)
        if done is None:
            teacher = engine.generator.teacher
            if teacher.keep:
                cls._show_finished(training, output_dir)
            guard = engine.guard
            if guard is not None and guard.action == "back_off":
                if guard.healthy or engine.healthy_epoch is None:
                    save_healthy(
                        training.model, training.optimizers, output_dir, epoch - 1
                    )
            return StoppableIterator(
                iterator, cls.told_to_stop, options.accum_grad
            ), False
        state = interruption.load_interruption(training, output_dir, epoch, done)
        batches = StoppableIterator(
            iterator,
            cls.told_to_stop,
            options.accum_grad,
            skip=done,
            begin=lambda: interruption.set_random_state(state["random"]),
        )
        return batches, state["valid"]

    @staticmethod
    def _show_finished(training: Training, output_dir: Path) -> None:
        """Let a teacher that averages epochs see those that are finished."""
        wait_for_all()  # The first process may still be writing the last epoch's file.
        teacher = training.model.pl.generator.teacher
        finished = checkpoints.finished_epochs(output_dir, teacher.criterion)
        teacher.begin_epoch(
            training.model,
            finished,
            lambda epoch: files.load_state(output_dir / f"{epoch}epoch.pth"),
        )

    @classmethod
    def validate_one_epoch(
        cls, model: torch.nn.Module, reporter: Any, options: Any, **kwargs: Any
    ) -> None:
        """Validate, then save the side state that belongs to this epoch.

        Args:
            model: The model, possibly wrapped for distribution.
            reporter: ESPnet's reporter of this epoch.
            options: ESPnet's options.
            **kwargs: The stock trainer's other arguments.
        """
        super().validate_one_epoch(
            model=model, reporter=reporter, options=options, **kwargs
        )
        bare = getattr(model, "module", model)
        if getattr(bare, "pl", None) is not None:
            output_dir = Path(options.output_dir)
            save_state(bare, output_dir, reporter.get_epoch())
            wait_for_all()  # Or a checkpoint could be newer than another's side state.
            if rank_and_world()[0] == 0:
                checkpoints.set_aside(output_dir)

    @staticmethod
    def resume(
        checkpoint: str | Path, model: torch.nn.Module, reporter: Any, **kwargs: Any
    ) -> None:
        """Resume from ESPnet's checkpoint and the side state of the same epoch.

        Args:
            checkpoint: `checkpoint.pth` in the experiment directory.
            model: A `SoftPLModel`.
            reporter: ESPnet's reporter, which learns the epoch from the checkpoint.
            **kwargs: The stock trainer's other arguments.
        """
        Trainer.resume(checkpoint=checkpoint, model=model, reporter=reporter, **kwargs)
        if getattr(model, "pl", None) is not None:
            load_state(model, Path(checkpoint).parent, reporter.get_epoch())
