"""ESPnet's trainer, with a teacher that follows real updates, saved and resumed."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from espnet2.train.trainer import Trainer

from espnet_softpl import state as files
from espnet_softpl.checks import UserError
from espnet_softpl.guarding import Watch, WatchedIterator, save_healthy
from espnet_softpl.state import STATE_DIR, rank_and_world, save_atomically

logger = logging.getLogger(__name__)

STATE_VERSION = 2


def state_path(output_dir: Path, epoch: int, rank: int) -> Path:
    """Name the side state of one epoch and process.

    Args:
        output_dir: The experiment directory.
        epoch: The finished epoch.
        rank: The process.

    Returns:
        The file beside ESPnet's `checkpoint.pth` that holds what it does not.
    """
    return output_dir / STATE_DIR / f"{epoch}epoch.rank{rank}.pth"


def save_state(model: torch.nn.Module, output_dir: Path, epoch: int) -> None:
    """Save the engine's state of one epoch, and forget all but the epoch before it.

    ESPnet writes `checkpoint.pth` after this: whichever of the two epochs that file
    holds when a run is killed, its side state is there.

    Args:
        model: A `SoftPLModel`, not wrapped for distribution.
        output_dir: The experiment directory.
        epoch: The finished epoch.
    """
    rank, world_size = rank_and_world()
    state = {
        "version": STATE_VERSION,
        "epoch": epoch,
        "world_size": world_size,
        **model.pl.state_dict(model),
    }
    save_atomically(state, state_path(output_dir, epoch, rank))
    for path in (output_dir / STATE_DIR).glob(f"*epoch.rank{rank}.pth"):
        saved = re.fullmatch(r"(\d+)epoch\.rank\d+\.pth", path.name)
        if saved and int(saved[1]) < epoch - 1:
            path.unlink()


def load_state(model: torch.nn.Module, output_dir: Path, epoch: int) -> None:
    """Restore the engine's state of one epoch.

    Args:
        model: A `SoftPLModel`, not wrapped for distribution.
        output_dir: The experiment directory.
        epoch: The epoch that `checkpoint.pth` holds.

    Raises:
        UserError: The state is missing, or from another epoch, version or number
            of processes.
    """
    rank, world_size = rank_and_world()
    path = state_path(output_dir, epoch, rank)
    advice = f"Start again in a new --output_dir, or from --init_param, not {path}."
    if not path.exists():
        raise UserError(
            f"cannot resume: {path} is missing, so the teacher of epoch {epoch} is "
            f"not known. {advice}"
        )
    state = files.load_state(path)
    wanted = dict(version=STATE_VERSION, epoch=epoch, world_size=world_size)
    for key, value in wanted.items():
        if state.get(key) != value:
            raise UserError(
                f"cannot resume: {path} has {key} {state.get(key)!r}, this run needs "
                f"{value!r}. {advice}"
            )
    model.pl.load_state_dict(state, model)


class SoftPLTrainer(Trainer):
    """The stock trainer, plus what a teacher needs around it.

    The training loop is ESPnet's own: the teacher follows the optimizer through a
    hook that fires only on real updates (not on skipped ones under mixed precision,
    non-finite gradients or gradient accumulation).
    """

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
        if engine is not None:
            optimizers[0].register_step_post_hook(
                lambda *_: engine.generator.teacher.update(model)
            )
        super().run(
            model=model,
            optimizers=optimizers,
            trainer_options=trainer_options,
            **kwargs,
        )
        if engine is not None and rank_and_world()[0] == 0:
            cls.export_teacher(model, Path(trainer_options.output_dir))

    @staticmethod
    def export_teacher(model: torch.nn.Module, output_dir: Path) -> None:
        """Write the teacher as a stock ESPnet model file, `teacher.pth`.

        Args:
            model: A `SoftPLModel` with an engine.
            output_dir: The experiment directory.
        """
        weights = model.pl.generator.teacher.state_dict().get("model")
        if weights is not None:
            save_atomically(weights, output_dir / "teacher.pth")
            logger.info("The teacher was saved as %s", output_dir / "teacher.pth")

    @classmethod
    def train_one_epoch(
        cls,
        model: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        iterator: Any,
        reporter: Any,
        options: Any,
        **kwargs: Any,
    ) -> bool:
        """Train one epoch, under the guard's eyes if there is one.

        Args:
            model: The model, possibly wrapped for distribution.
            optimizers: One optimizer.
            iterator: The epoch's mini-batches.
            reporter: ESPnet's reporter of this epoch.
            options: ESPnet's options.
            **kwargs: The stock trainer's other arguments.

        Returns:
            Whether no step could be made.
        """
        bare = getattr(model, "module", model)
        engine = getattr(bare, "pl", None)
        if engine is not None and engine.guard is not None:
            output_dir = Path(options.output_dir)
            healthy = engine.guard.healthy or engine.healthy_epoch is None
            if engine.guard.action == "back_off" and healthy:
                save_healthy(bare, optimizers, output_dir, reporter.get_epoch() - 1)
            watch = Watch(bare, optimizers, reporter, output_dir)
            iterator = WatchedIterator(iterator, watch.after_step)
        return super().train_one_epoch(
            model=model,
            optimizers=optimizers,
            iterator=iterator,
            reporter=reporter,
            options=options,
            **kwargs,
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
            save_state(bare, Path(options.output_dir), reporter.get_epoch())

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
