"""What reaches the optimizer: how many updates are clipped, and of which gradient.

ESPnet logs the norm of the whole gradient. Here the labeled and the unlabeled part of
it are told apart, for one update an epoch: the gradient is looked at after each
mini-batch, and what it grew by is that mini-batch's.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

import torch

from espnet_softpl.training.resume.snapshot import Training

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class GradientLog:
    """Measures the gradients of one update of an epoch, and counts clipped updates.

    Attributes:
        training: The parts of the training.
        grad_clip: ESPnet's, the largest norm of a gradient.
        update_steps: Mini-batches of one update.
    """

    training: Training
    grad_clip: float
    update_steps: int
    done: int = 0  # Mini-batches of this epoch, or of the rest of it.
    # Norms by kind of mini-batch (True: unlabeled), once they are known.
    norms: dict[bool, float] = dataclasses.field(default_factory=dict)
    # The gradient so far in an update, and the sums of each kind.
    _last: list[torch.Tensor] | None = None
    _sums: dict[bool, list[torch.Tensor]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        hook = self.training.optimizers[0].register_step_pre_hook
        self._hook = hook(lambda *_: self._end_update())

    def after_step(self) -> None:
        """Look at what the latest mini-batch added, unless it ended an update."""
        self.done += 1
        if self.norms or self.done % self.update_steps == 0:
            self._last, self._sums = None, {}
        elif self._last or self._begins:
            scaler = self.training.scaler
            self._add(1.0 if scaler is None else scaler.get_scale())

    @property
    def _begins(self) -> bool:
        """Whether the latest mini-batch was the first of an update, of many to come."""
        is_first = self.update_steps > 1 and self.done % self.update_steps == 1
        return is_first and self.training.model.pl.begun

    def _end_update(self) -> None:
        """Take the last mini-batch from the gradient that has just been clipped."""
        if self.norms or self._last is None:
            return
        norm = self._latest("grad_norm")
        self._add(min(1.0, self.grad_clip / (norm + 1e-6)))
        if len(self._sums) == 2:
            self.norms = {kind: _norm(of) for kind, of in self._sums.items()}
            logger.info("%s", self.describe())

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

    def _latest(self, key: str) -> float:
        """Return the latest value of a statistic, NaN if there is none."""
        reported = self.training.reporter.stats.get(key)
        return float(reported[-1].value) if reported else math.nan

    def describe(self) -> str:
        """Describe the gradient in words."""
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
        values = self._epoch()
        if not values:
            return
        clipped = sum(norm > self.grad_clip for norm, _ in values)
        by_kind = {
            kind: [norm for norm, is_unlabeled in values if is_unlabeled == kind]
            for kind in (False, True)
        }
        if self.update_steps == 1 and all(by_kind.values()):
            self.norms = {k: sum(norms) / len(norms) for k, norms in by_kind.items()}
        logger.info(
            "Epoch %d: %d of %d updates were clipped. %s",
            self.training.epoch,
            clipped,
            len(values),
            self.describe(),
        )

    def _epoch(self) -> list[tuple[float, bool]]:
        """List norm and kind (of the last mini-batch) of the epoch's updates."""
        stats: dict[str, Any] = self.training.reporter.stats
        norms = [float(one.value) for one in stats.get("grad_norm", ())]
        kinds = [not math.isnan(float(one.value)) for one in stats.get("loss_pl", ())]
        # A resumed epoch has the statistics of its first part as well.
        return [(n, kind) for n, kind in zip(norms, kinds) if not math.isnan(n)]


def _norm(parts: list[torch.Tensor]) -> float:
    return float(torch.stack([part.norm() for part in parts]).norm())
