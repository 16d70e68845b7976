"""A CTC head of its own for unlabeled batches, which no stock checkpoint holds.

Errors in the pseudo-labels then reach the shared encoder, but not the head that
decodes and that labels (USR, Haliassos et al. 2024, https://arxiv.org/abs/2411.02256).
"""

from __future__ import annotations

import copy
from typing import Any

import torch

NAME = "unlabeled_head"


def add(module: torch.nn.Module, head: torch.nn.Module) -> None:
    """Add a copy of a head to a module, trained with it but left out of its state.

    Args:
        module: The model; gets the submodule `unlabeled_head`.
        head: The head to copy; it is copied again when
            the first unlabeled batch finds it trained.
    """
    module.add_module(NAME, copy.deepcopy(head))
    module.register_state_dict_post_hook(_leave_out)
    module.register_load_state_dict_pre_hook(_leave_as_it_is)


def of(module: torch.nn.Module) -> torch.nn.Module | None:
    """Return a module's unlabeled head, or None."""
    return module._modules.get(NAME)


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
