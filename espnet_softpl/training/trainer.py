"""ESPnet's trainer, with a teacher that follows real updates, saved and resumed."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from espnet2.train.trainer import Trainer

from espnet_softpl.core.files import load_state, save_atomically
from espnet_softpl.core.processes import (
    any_process,
    on_first_process,
    rank_and_world,
    wait_for_all,
)
from espnet_softpl.training import guarding
from espnet_softpl.training.resume import checkpoints, interruption, snapshot
from espnet_softpl.training.resume.interruption import Interrupted, StoppableIterator
from espnet_softpl.training.resume.layout import TEACHER
from espnet_softpl.training.resume.snapshot import Training

logger = logging.getLogger(__name__)


class SoftPLTrainer(Trainer):
    """The stock trainer, plus what a teacher needs around it.

    The training loop is ESPnet's own: the teacher follows the optimizer through a
    hook that fires only on real updates (not on skipped ones under mixed precision,
    non-finite gradients or gradient accumulation). A model without a `pl` engine is
    trained as ever.

    Attributes:
        stop: Set when the process has got SIGTERM.
    """

    stop = interruption.StopRequest()

    @classmethod
    def run(
        cls,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        trainer_options: Any,
        **kwargs: Any,
    ) -> None:
        """Train; see `espnet2.train.trainer.Trainer.run`."""
        train = functools.partial(
            super().run,
            model=model,
            optimizers=optimizers,
            trainer_options=trainer_options,
            **kwargs,
        )
        engine = getattr(model, "pl", None)
        if engine is None:
            return train()
        if trainer_options.use_amp and trainer_options.ngpu == 0:
            # ESPnet leaves it to the scaler to skip an update that is not finite; on
            # a CPU the scaler is disabled, and lets it through.
            logger.warning("use_amp is for GPUs: training goes on in float32")
            trainer_options.use_amp = False
        output_dir = Path(trainer_options.output_dir)
        on_first_process(
            lambda: checkpoints.begin_directory(output_dir, trainer_options)
        )
        if trainer_options.resume:
            last_epoch = checkpoints.early_stop(
                output_dir,
                trainer_options.patience,
                trainer_options.early_stopping_criterion,
            )
            # Killed after its last epoch: there is nothing left to train.
            trainer_options.max_epoch = last_epoch or trainer_options.max_epoch
        teacher = engine.generator.teacher
        optimizers[0].register_step_post_hook(lambda *_: teacher.update(model))
        if engine.cache is not None:
            factory = kwargs["train_iter_factory"].factory
            engine.cache.follow(factory.plan)
            factory.evicted = engine.cache.evicted
        with cls.stop.on_sigterm(), checkpoints.whole_files():
            train()
        weights = teacher.state_dict().get("model")
        if rank_and_world()[0] == 0 and weights is not None:
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

        Returns:
            Whether no step could be made.

        Raises:
            Interrupted: The process got SIGTERM; everything is saved.
        """
        train = functools.partial(
            super().train_one_epoch,
            model=model,
            optimizers=optimizers,
            schedulers=schedulers,
            reporter=reporter,
            scaler=scaler,
            options=options,
            **kwargs,
        )
        bare = getattr(model, "module", model)
        if getattr(bare, "pl", None) is None:
            return train(iterator=iterator)
        for optimizer in optimizers:
            # Mini-batches that were left over for accumulation would go into the next
            # epoch's first step, unless the run was resumed in between.
            optimizer.zero_grad()
        training = Training(
            bare,
            Path(options.output_dir),
            reporter.get_epoch(),
            optimizers,
            schedulers,
            scaler,
            reporter,
        )
        batches = functools.partial(
            StoppableIterator, iterator, cls.stop, options.accum_grad
        )
        if bare.pl.guard is not None:
            batches.keywords["after_step"] = functools.partial(
                guarding.consult_guard, training
            )
        done = snapshot.find_interruption(training.output_dir, training.epoch)
        if done is None:
            valid = False
            cls._begin_epoch(training)
            batches = batches()
        else:
            state = snapshot.load(training, f"{done}batches")
            logger.info("Epoch %d goes on after %d mini-batches", training.epoch, done)
            valid = state["valid"]
            restore = functools.partial(snapshot.set_random_state, state["random"])
            batches = batches(skip=done, begin=restore)
        valid = not train(iterator=batches) or valid
        if any_process(cls.stop.is_set and not batches.complete):
            if batches.done > 0:
                interruption.save_interruption(training, batches.done, valid)
            raise Interrupted
        return not valid

    @staticmethod
    def _begin_epoch(training: Training) -> None:
        """Let a teacher that averages epochs see them, and a back-off return here."""
        teacher = training.model.pl.generator.teacher
        if teacher.keep:
            wait_for_all()  # The first process may still be writing the last epoch.
            output_dir = training.output_dir
            teacher.begin_epoch(
                training.model,
                checkpoints.finished_epochs(output_dir, teacher.criterion),
                lambda epoch: load_state(output_dir / f"{epoch}epoch.pth"),
            )
        guarding.keep_healthy(training)

    @classmethod
    def validate_one_epoch(
        cls, model: torch.nn.Module, reporter: Any, options: Any, **kwargs: Any
    ) -> None:
        """Validate, then save the snapshot that belongs to this epoch's end."""
        super().validate_one_epoch(
            model=model, reporter=reporter, options=options, **kwargs
        )
        bare = getattr(model, "module", model)
        if getattr(bare, "pl", None) is not None:
            output_dir = Path(options.output_dir)
            snapshot.save_epoch_end(Training(bare, output_dir, reporter.get_epoch()))
            wait_for_all()  # Or a checkpoint could be newer than another's snapshot.

    @staticmethod
    def resume(
        checkpoint: str | Path, model: torch.nn.Module, reporter: Any, **kwargs: Any
    ) -> None:
        """Resume from ESPnet's checkpoint and the snapshot of the same epoch."""
        Trainer.resume(checkpoint=checkpoint, model=model, reporter=reporter, **kwargs)
        if getattr(model, "pl", None) is not None:
            output_dir, epoch = Path(checkpoint).parent, reporter.get_epoch()
            snapshot.load(Training(model, output_dir, epoch))
