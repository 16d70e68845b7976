"""An exponential moving average of the student."""

import logging

import torch

from espnet_softpl.core.ranges import at_least, choice, fraction, is_finite, positive
from espnet_softpl.teacher.base import register
from espnet_softpl.teacher.following import FollowingTeacher, follow

logger = logging.getLogger(__name__)

# The default half-life as a share of the run's optimizer steps: about that of the
# presets that were measured, 50 to 69 steps in runs of 800 (docs/choose.md).
RUN_SHARE = 1 / 15


def resolve_decay(
    decay: float | None = None,
    half_life_steps: float | None = None,
    retention: float | None = None,
    steps_per_epoch: int | None = None,
    every_steps: int = 1,
) -> float | None:
    """Turn the ways to give a decay into the decay of one update, in [0, 1].

    None if none is given. The arguments and what is refused: `EMATeacher`.
    """
    ways = dict(decay=decay, half_life_steps=half_life_steps, retention=retention)
    chosen = [name for name, value in ways.items() if value is not None]
    if len(chosen) > 1:
        raise ValueError(f"give one of {', '.join(chosen)}, not both or all of them")
    if (retention is None) != (steps_per_epoch is None):
        raise ValueError("give retention and steps_per_epoch together, or neither")
    if half_life_steps is not None:
        return 0.5 ** (every_steps / positive("half_life_steps", half_life_steps))
    if retention is not None:
        if not (is_finite(retention) and 0.0 < retention <= 1.0):
            raise ValueError(f"retention must be a number in (0, 1], got {retention!r}")
        epoch = at_least("steps_per_epoch", steps_per_epoch, 1)
        return retention ** (every_steps / epoch)
    return None if decay is None else fraction("decay", decay)


@register("ema")
class EMATeacher(FollowingTeacher):
    """An exponential moving average of the student (`pl_teacher: ema`).

    At an update: teacher <- decay * teacher + (1 - decay) * student, accumulated in
    float32 whatever the student's precision (Kaizen, Manohar et al. 2021,
    https://arxiv.org/abs/2106.07759, found that critical: at a decay near 1 the
    increments are smaller than what half precision resolves). A buffer's value that
    is not finite is not taken over; see `following.follow`.

    Give the decay in one of three ways. Half-life and retention are in optimizer steps,
    whatever `every_steps` is. By default the half-life is a fifteenth of the optimizer
    steps of the whole run, because one number does not suit runs of every length. A run
    that is resumed with another `max_epoch` continues with the half-life of its new
    length.

    Use: first; it gave the lowest error rates here.

    Source: MPL (Higuchi et al. 2021, https://arxiv.org/abs/2106.08922), and Kaizen.

    Known failure: a teacher that follows within a few updates lets labels collapse.

    Args:
        decay: Of one update, in [0, 1]; 0 is the student of the last update, 1 never
            moves.
        half_life_steps: Optimizer steps after which the weight of a past student has
            halved, greater than 0: decay = 0.5 ** (every_steps / half_life_steps).
        retention: Share of the old teacher that is left after an epoch, in (0, 1]:
            decay = retention ** (every_steps / steps_per_epoch). It is the weight by
            which MPL (Higuchi et al. 2021, https://arxiv.org/abs/2106.08922) sets its
            decay; that it is by epoch is our reading.
        steps_per_epoch: Optimizer steps of an epoch, at least 1; with `retention`, and
            only then.
        every_steps: Update only after every so many optimizer steps, counted from the
            first unlabeled mini-batch, at least 1. Ours, to save time.
        warmup: True bounds the decay of the n-th update, n from 1, by
            (1 + n) / (10 + n). A young teacher then follows quickly. The rule is that
            of
            https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage
        buffers: `copy` takes the student's buffers (batch-norm statistics) as they
            are, `average` averages the floating-point ones with the same decay.
            Integer ones (counters) are copied either way.
    """

    kind = "ema"

    def __init__(
        self,
        decay: float | None = None,
        half_life_steps: float | None = None,
        retention: float | None = None,
        steps_per_epoch: int | None = None,
        every_steps: int = 1,
        warmup: bool = False,
        buffers: str = "copy",
    ) -> None:
        super().__init__(every_steps)
        self.decay = resolve_decay(
            decay, half_life_steps, retention, steps_per_epoch, every_steps
        )
        self._follows_run = self.decay is None
        if not isinstance(warmup, bool):
            raise ValueError(f"warmup must be true or false, got {warmup!r}")
        self.warmup = warmup
        self.buffers = choice("buffers", buffers, ("copy", "average"))

    def begin_run(self, steps: int) -> None:
        """See `Teacher.begin_run`: set the decay if no setting says it."""
        if self._follows_run:
            half_life = max(RUN_SHARE * steps, 1.0)
            self.decay = resolve_decay(None, half_life, every_steps=self.every_steps)
            logger.info(
                "pl_teacher ema: a half-life of %.0f of the run's %d optimizer steps, "
                "the default (decay %.6g)",
                half_life,
                steps,
                self.decay,
            )

    def decay_at(self, update: int) -> float:
        """Return the decay of an update, counted from 1.

        Raises:
            RuntimeError: No setting says it, and the length of the run is not known.
        """
        if self.decay is None:
            raise RuntimeError("EMATeacher: no decay is given, so call begin_run")
        if not self.warmup:
            return self.decay
        return min(self.decay, (1 + update) / (10 + update))

    def move(self, teacher: torch.nn.Module, student: torch.nn.Module) -> None:
        """See `FollowingTeacher.move`: average the student in."""
        decay = self.decay_at(self.updates)
        average = self.buffers == "average"
        follow(teacher, student, decay, average, self.pairs(teacher, student))
