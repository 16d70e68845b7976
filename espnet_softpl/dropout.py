"""The dropout rates of a model, changed when pseudo-labeling starts.

slimIPL trains its supervised phase with much dropout, and lowers the rates of dropout
and of dropped layers to 0.1 for pseudo-labeling
(https://arxiv.org/abs/2010.11524, wav2letter recipes/slimIPL).
"""

from __future__ import annotations

import torch
from torch.nn.modules.dropout import _DropoutNd

# The attributes in which ESPnet keeps the rate at which whole layers are dropped:
# of a stack, or of one layer.
LAYER_DROP = ("layer_drop_rate", "stochastic_depth_rate")


class DropoutSwitch:
    """Two sets of rates for a model: as it was built, and for pseudo-labeling.

    Rates that are 0 stay 0: a layer that was built without dropout gets none.

    Args:
        module: The model, as it was built.
        dropout: New rate of `torch.nn.Dropout` and its kin, and of recurrent layers,
            in [0, 1]; None leaves them.
        layer_drop: New rate of dropped layers, in [0, 1]; None leaves them.

    Raises:
        ValueError: The model drops nothing of the kind that is to be changed.
    """

    def __init__(
        self, module: torch.nn.Module, dropout: float | None, layer_drop: float | None
    ) -> None:
        self._rates: list[tuple[torch.nn.Module, str, float, float]] = []
        self._on = False
        for what, new, found in (
            ("dropout", dropout, _dropouts(module)),
            ("layer_drop", layer_drop, _layer_drops(module)),
        ):
            if new is None:
                continue
            rates = [
                (part, name, getattr(part, name), new)
                for part, name in found
                if getattr(part, name) > 0
            ]
            if not rates:
                raise ValueError(
                    f"pl_schedule_conf: {what} is {new}, but the model was built with "
                    f"none that could be changed"
                )
            self._rates += rates

    def set(self, on: bool) -> None:
        """Set the rates.

        Args:
            on: True for those of pseudo-labeling, False for those of before.
        """
        if on == self._on:
            return
        for part, name, before, after in self._rates:
            setattr(part, name, after if on else before)
        self._on = on


def dropouts(module: torch.nn.Module) -> list[torch.nn.Module]:
    """List the parts of a module that drop activations in train mode."""
    return [part for part, _ in _dropouts(module)]


def drops_layers(module: torch.nn.Module) -> bool:
    """Tell whether a module drops whole layers in train mode."""
    return any(getattr(part, name) > 0 for part, name in _layer_drops(module))


def _dropouts(module: torch.nn.Module) -> list[tuple[torch.nn.Module, str]]:
    found = []
    for part in module.modules():
        if isinstance(part, _DropoutNd):
            found.append((part, "p"))
        elif isinstance(part, torch.nn.RNNBase):
            found.append((part, "dropout"))
    return found


def _layer_drops(module: torch.nn.Module) -> list[tuple[torch.nn.Module, str]]:
    return [
        (part, name)
        for part in module.modules()
        for name in LAYER_DROP
        if isinstance(getattr(part, name, None), float)
    ]
