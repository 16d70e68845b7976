"""What reaches the optimizer: which updates count, how large their gradients are."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from espnet_softpl.monitors import statistics
from espnet_softpl.training.hooks import replaced
from espnet_softpl.training.resume.snapshot import Training

logger = logging.getLogger(__name__)


def teaches(training: Training, update_steps: int) -> bool:
    """Tell whether any of the latest `update_steps` mini-batches has taught something.

    A labeled one has. Of an unlabeled one ESPnet's statistics tell, which are averaged
    over all processes: they decide alike.
    """
    kept = training.reported(statistics.KEPT.name, update_steps)
    weights = training.reported(statistics.WEIGHT.name, update_steps)
    # NaN of a labeled mini-batch is not zero.
    return not kept or any(k != 0.0 and w != 0.0 for k, w in zip(kept, weights))


@contextlib.contextmanager
def only_taught(training: Training, update_steps: int) -> Iterator[None]:
    """Leave out steps of optimizers and schedulers that follow no learning.

    If all labels of an update's mini-batches were dropped, the gradient is zero, but an
    optimizer would still decay the weights and its moments, the learning rate go on,
    and the teacher follow. slimIPL leaves such steps out,
    https://arxiv.org/abs/2010.11524.

    So is an optimizer's step on a gradient that is not finite: in mixed precision a
    fused optimizer is called even so, and its hooks with it.
    """
    reporter = training.reporter
    skipped = 0

    def unless_empty(step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(step)  # With torch's mark that a scheduler knows it.
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal skipped
            # ESPnet reports the norm before a step, but only one that is finite.
            if len(reporter.stats.get("grad_norm", ())) < reporter.count:
                return None
            if teaches(training, update_steps):
                return step(*args, **kwargs)
            skipped += 1
            return None

        return call

    parts = [*training.optimizers, *filter(None, training.schedulers)]
    with contextlib.ExitStack() as stack:
        for part in parts:
            stack.enter_context(replaced(part, "step", unless_empty(part.step)))
        yield
    if skipped:
        logger.info(
            "Epoch %d: %d updates were left out: all their labels were dropped",
            training.epoch,
            skipped // len(parts) or 1,
        )


@dataclasses.dataclass
class GradientLog:
    """Measures the gradients of one update of an epoch, and counts clipped updates.

    ESPnet logs the norm of the whole gradient. Here the labeled and the unlabeled part
    are told apart: what the gradient grew by in a mini-batch is that mini-batch's.
    """

    training: Training
    grad_clip: float  # ESPnet's, the largest norm of a gradient.
    update_steps: int  # Mini-batches of one update.
    done: int = 0  # Mini-batches of this epoch, or of the rest of it.
    # Norms by kind of mini-batch (True: unlabeled), once they are known.
    norms: dict[bool, float] = dataclasses.field(default_factory=dict)
    # The gradient so far in an update, and the sums of each kind.
    _last: list[Tensor] | None = None
    _sums: dict[bool, list[Tensor]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        hook = self.training.optimizers[0].register_step_pre_hook
        self._hook = hook(lambda *_: self._end_update())

    def after_step(self) -> None:
        """Look at what the latest mini-batch added, unless it ended an update."""
        self.done += 1
        position = self.done % self.update_steps
        begins = position == 1 and self.training.model.pl.begun
        if self.norms or position == 0:
            self._last, self._sums = None, {}
        elif self._last or begins:
            scaler = self.training.scaler
            self._add(1.0 if scaler is None else scaler.get_scale())

    def _end_update(self) -> None:
        """Take the last mini-batch from the gradient that has just been clipped."""
        if self.norms or self._last is None:
            return
        norm = self._latest("grad_norm")
        self._add(min(1.0, self.grad_clip / (norm + 1e-6)))
        if len(self._sums) == 2:
            self.norms = {
                kind: float(torch.stack([part.norm() for part in parts]).norm())
                for kind, parts in self._sums.items()
            }
            logger.info("%s", self._described())

    def _add(self, scale: float) -> None:
        """Add what the gradient, divided by `scale`, has grown by to its kind."""
        parameters = self.training.model.parameters()
        gradient = [p.grad / scale for p in parameters if p.grad is not None]
        last = self._last or [torch.zeros_like(part) for part in gradient]
        if len(last) != len(gradient):  # Another branch has got its first gradient.
            self._last, self._sums = None, {}
            return
        grown = [new - old for new, old in zip(gradient, last)]
        kind, self._last = not math.isnan(self._latest("loss_pl")), gradient
        if kind in self._sums:
            grown = [a + b for a, b in zip(self._sums[kind], grown)]
        self._sums[kind] = grown

    def _latest(self, name: str) -> float:
        return next(iter(self.training.reported(name, 1)), math.nan)

    def _described(self) -> str:
        if not self.norms:
            return "The gradient of no update was measured"
        return (
            f"Gradient norm of an update: {self.norms[False]:.3g} of the labeled, "
            f"{self.norms[True]:.3g} of the unlabeled loss, its weight included; "
            f"clipped at {self.grad_clip:g}"
        )

    def end_epoch(self) -> None:
        """Log the epoch: the updates that were clipped, the norms of both kinds."""
        self._hook.remove()
        # A resumed epoch has the statistics of its first part as well. An update is of
        # the kind of its last mini-batch.
        norms = self.training.reported("grad_norm")
        kinds = [not math.isnan(loss) for loss in self.training.reported("loss_pl")]
        known = [(n, kind) for n, kind in zip(norms, kinds) if not math.isnan(n)]
        if not known:
            return
        if self.update_steps == 1 and len({kind for _, kind in known}) == 2:
            by_kind = {k: [n for n, kind in known if kind == k] for k in (False, True)}
            self.norms = {k: sum(ns) / len(ns) for k, ns in by_kind.items()}
        logger.info(
            "Epoch %d: %d of %d updates were clipped. %s",
            self.training.epoch,
            sum(norm > self.grad_clip for norm, _ in known),
            len(known),
            self._described(),
        )
