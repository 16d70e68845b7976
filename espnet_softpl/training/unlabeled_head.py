"""A CTC head of its own for unlabeled batches, which no stock checkpoint holds.

Errors in the pseudo-labels then reach the shared encoder, but not the head that
decodes and that labels (USR, Haliassos et al. 2024, https://arxiv.org/abs/2411.02256).
"""

from __future__ import annotations

import copy
from typing import Any

import torch

NAME = "unlabeled_head"


def add(model: torch.nn.Module) -> None:
    """Add a copy of an ESPnet model's CTC head, trained but left out of its state."""
    model.add_module(NAME, copy.deepcopy(model.ctc.ctc_lo))
    model.register_state_dict_post_hook(_leave_out)
    model.register_load_state_dict_pre_hook(_leave_as_it_is)


def of(model: torch.nn.Module) -> torch.nn.Linear | None:
    """Return a model's unlabeled head, or None."""
    return model._modules.get(NAME)


def start(model: torch.nn.Module) -> None:
    """Copy the weights of the stock head, which by now is the base model's."""
    if of(model) is not None:
        of(model).load_state_dict(model.ctc.ctc_lo.state_dict())


def _leave_out(
    module: torch.nn.Module, state: dict[str, Any], prefix: str, metadata: Any
) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}{NAME}.")]:
        del state[key]


def _leave_as_it_is(
    module: torch.nn.Module, state: dict[str, Any], prefix: str, *_: Any
) -> None:
    for key, value in of(module).state_dict().items():
        state.setdefault(f"{prefix}{NAME}.{key}", value)
