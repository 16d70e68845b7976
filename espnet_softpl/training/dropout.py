"""The dropout rates of a model, changed when pseudo-labeling starts.

slimIPL trains its supervised phase with much dropout, and lowers the rates of dropout
and of dropped layers to 0.1 for pseudo-labeling
(https://arxiv.org/abs/2010.11524, wav2letter recipes/slimIPL).
"""

from __future__ import annotations

import torch

from espnet_softpl.core.modules import dropout_rates, layer_drop_rates


class DropoutSwitch:
    """Two sets of rates for a model: as it was built, and for pseudo-labeling.

    The new rates, in [0, 1], replace those of dropout and recurrent layers, and of
    dropped layers; None leaves them, and so does an old rate of 0.

    Raises:
        ValueError: The model drops nothing of the kind that is to be changed.
    """

    def __init__(
        self, module: torch.nn.Module, dropout: float | None, layer_drop: float | None
    ) -> None:
        self._rates: list[tuple[torch.nn.Module, str, float, float]] = []
        self._on = False
        for what, new, places in (
            ("dropout", dropout, dropout_rates(module)),
            ("layer_drop", layer_drop, layer_drop_rates(module)),
        ):
            old = [(part, name, getattr(part, name)) for part, name in places]
            rates = [(*rate, new) for rate in old if rate[-1] > 0 and new is not None]
            if new is not None and not rates:
                raise ValueError(
                    f"pl_schedule_conf: {what} is {new}, but the model was built with "
                    f"none that could be changed"
                )
            self._rates += rates

    def set(self, on: bool) -> None:
        """Set the rates of pseudo-labeling (True), or those of before (False)."""
        if on != self._on:
            for part, name, before, after in self._rates:
                setattr(part, name, after if on else before)
            self._on = on
