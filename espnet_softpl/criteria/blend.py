"""A weighted sum of criteria: hard and soft labels together."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from espnet_softpl.core.ranges import fraction, not_negative
from espnet_softpl.criteria.base import PLCriterion, build, register
from espnet_softpl.ctc import in_float32
from espnet_softpl.labels.pseudo_label import PseudoLabel


@register("blend")
class Blend(PLCriterion):
    """A weighted sum of criteria on the same pseudo-label.

    L = sum_i a_i L_i; without `parts`, L = alpha hard_ctc + (1 - alpha) soft_ce. All
    criteria are in nats per utterance, so the a_i are comparable. The gradient is the
    weighted sum of the parts' gradients: a part that is consistent as a sequence
    opposes the drift that frame-level parts allow. Every number, the weights included,
    may be scheduled.

    Use: to hold a soft part by a hard one.

    Source: hard and soft targets blended, as is usual in distillation (Hinton et al.
    2015, https://arxiv.org/abs/1503.02531).

    Known failure: that of its heaviest part. With little weight on the
    sequence-consistent part it drifts as `soft_ce` does, but later.

    Args:
        alpha: Weight of `hard_ctc` against `soft_ce`, in [0, 1]; None is 0.5. Not
            together with `parts`.
        parts: Mappings with the keys `criterion` (a name or 'module:Class'),
            `criterion_conf` (its settings) and `weight` (at least 0, default 1). A
            part of weight 0 is not computed.
    """

    def __init__(
        self,
        alpha: float | None = None,
        parts: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        if parts is None:
            alpha = fraction("alpha", 0.5 if alpha is None else alpha)
            parts = [
                {"criterion": "hard_ctc", "weight": alpha},
                {"criterion": "soft_ce", "weight": 1.0 - alpha},
            ]
        elif alpha is not None:
            raise ValueError("give alpha or parts, not both")
        if not parts:
            raise ValueError("parts: give at least one criterion")
        self.parts = torch.nn.ModuleList(_build_part(part) for part in parts)
        self.weights = [not_negative("weight", p.get("weight", 1.0)) for p in parts]
        # Of all parts, for a weight that is 0 now may be scheduled to rise.
        self.frame_level = any(part.frame_level for part in self.parts)
        self.trains_decoder = any(part.trains_decoder for part in self.parts)
        self.needs_prior = any(part.needs_prior for part in self.parts)
        self.needs_masked = any(part.needs_masked for part in self.parts)
        self.weighs_frames = all(part.weighs_frames for part in self.parts)
        self.needs_posteriors = any(part.needs_posteriors for part in self.parts)
        self.views = max(part.views for part in self.parts)
        self.labeled_weight = sum(w * part.labeled_weight for part, w in self._used())

    def _used(self) -> list[tuple[PLCriterion, float]]:
        return [(p, w) for p, w in zip(self.parts, self.weights) if w > 0.0]

    def forward(
        self, log_probs: Tensor, lengths: Tensor, pseudo_label: PseudoLabel
    ) -> Tensor:
        """See `PLCriterion.forward`."""
        # The first term is 0, and keeps the graph if every weight is 0.
        total = 0.0 * in_float32(log_probs[:, 0].amax(-1))
        for part, weight in self._used():
            losses = part(log_probs, lengths, pseudo_label)
            if pseudo_label.second_view is not None and part.views == 1:
                other = pseudo_label._replace(masked=pseudo_label.second_masked)
                other = part(pseudo_label.second_view, lengths, other)
                losses = 0.5 * (losses + other)
            total = total + weight * losses
        return total

    def on_labeled(
        self, log_probs: Tensor, lengths: Tensor, second_view: Tensor
    ) -> Tensor:
        """See `PLCriterion.on_labeled`."""
        return sum(
            weight * part.on_labeled(log_probs, lengths, second_view)
            for part, weight in self._used()
        )


def _build_part(part: Mapping[str, Any]) -> PLCriterion:
    keys = ("criterion", "criterion_conf", "weight")
    allowed = ", ".join(keys)
    if not isinstance(part, Mapping) or "criterion" not in part:
        raise ValueError(
            f"parts: each part is a mapping with the keys {allowed}; got {part!r}"
        )
    if unknown := set(part) - set(keys):
        raise ValueError(f"parts: unknown keys {sorted(unknown)}. Allowed: {allowed}")
    return build(part["criterion"], **part.get("criterion_conf", {}))
