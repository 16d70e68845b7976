"""The mean frame posterior: of a batch, and as a running mean over batches."""

from typing import Any

import torch
from torch import Tensor

from espnet_softpl.core.ranges import fraction
from espnet_softpl.ctc import frame_mask, in_float32

# About one frame in the memory of a running mean over 100 batches of 10000 frames.
FLOOR = 1e-6


def mean_posterior(log_probs: Tensor, mask: Tensor) -> Tensor:
    """Average the posteriors (B, T, V) of the frames that a mask (B, T) marks.

    Returns:
        (V,), a distribution, with gradient; zeros if no frame is marked.
    """
    # Selected, not multiplied by 0: the sum is then grouped alike for any padded T.
    probs = in_float32(log_probs[mask]).exp()
    return probs.sum(0) / max(probs.size(0), 1)


def with_floor(distribution: Tensor) -> Tensor:
    """Give every token a share of at least about 1e-6, in a distribution (V,).

    A token that was never seen is rare, not impossible: at a share of 0, its
    log-ratio to any other estimate would be infinite.
    """
    floored = distribution.clamp(min=FLOOR)
    return floored / floored.sum()


class RunningMean:
    """Exponential running mean of frame posteriors over batches.

    After n batches with means m_1 .. m_n it is sum_i decay^(n-i) m_i, normalized,
    which is the usual average with its bias corrected: the first batch counts fully.
    Every batch has the same weight, whatever its number of frames. Each process
    averages its own batches.

    Args:
        decay: In [0, 1]; 0 is the latest batch, 1 the plain mean of all batches.
    """

    def __init__(self, decay: float = 0.99) -> None:
        self.decay = fraction("decay", decay)
        self._total: Tensor | None = None

    @torch.no_grad()
    def update(self, log_probs: Tensor, lengths: Tensor) -> None:
        """Take in a batch, (B, T, V), of lengths (B,).

        A batch without frames, or with a posterior that is NaN (an overflow in mixed
        precision), is passed over: it would stay in the mean for good.
        """
        mean = mean_posterior(log_probs, frame_mask(lengths, log_probs.size(1)))
        if not mean.sum() > 0:
            return
        mean = mean.float()
        if self._total is not None:
            mean = mean + self.decay * self._total.to(mean.device)
        self._total = mean

    @property
    def value(self) -> Tensor | None:
        """The mean, (V,), float32, with sum 1; None before the first batch."""
        return None if self._total is None else self._total / self._total.sum()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs: one tensor, or None before a batch."""
        return {"total": self._total}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._total = state["total"]
