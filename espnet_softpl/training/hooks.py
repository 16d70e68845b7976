"""What stock parts get from outside: other methods, rates, a head, recorded masks."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from espnet_softpl.core.modules import dropout_rates, layer_drop_rates

HEAD = "unlabeled_head"


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give a module or an object another attribute, and take it away afterwards."""
    had, before = name in vars(owner), getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before) if had else delattr(owner, name)


def add_head(model: nn.Module) -> None:
    """Give unlabeled batches a copy of an ESPnet model's CTC head, not in its state.

    Errors in the pseudo-labels then reach the shared encoder, but not the head that
    decodes and that labels (USR, Haliassos et al. 2024,
    https://arxiv.org/abs/2411.02256). No stock checkpoint holds it.
    """
    model.add_module(HEAD, copy.deepcopy(model.ctc.ctc_lo))
    model.register_state_dict_post_hook(_leave_out)
    model.register_load_state_dict_pre_hook(_leave_as_it_is)


def head_of(model: nn.Module) -> nn.Linear | None:
    """Return a model's unlabeled head, or None."""
    return model._modules.get(HEAD)


def start_head(model: nn.Module) -> None:
    """Copy the weights of the stock head, which by now is the base model's."""
    if head_of(model) is not None:
        head_of(model).load_state_dict(model.ctc.ctc_lo.state_dict())


def _leave_out(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for key in [key for key in state if key.startswith(f"{prefix}{HEAD}.")]:
        del state[key]


def _leave_as_it_is(
    module: nn.Module, state: dict[str, Any], prefix: str, *_: Any
) -> None:
    for key, value in head_of(module).state_dict().items():
        state.setdefault(f"{prefix}{HEAD}.{key}", value)


@contextlib.contextmanager
def recorded_masks(specaug: nn.Module | None) -> Iterator[list[Tensor]]:
    """Record the time masks that ESPnet's SpecAugment draws; of None, nothing.

    It tells nobody where they are: its features before and after are compared. A masked
    frame is one that was changed, and in which all bins now have the same value (0, or
    a mean); a mask of frequencies leaves others in it.

    Yields:
        A list that gets (B, F), bool, for each call, F frames of features.
    """
    masks: list[Tensor] = []
    before: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        before.append(inputs[0].detach().clone())  # It may write into its input.

    def compare(_: nn.Module, __: Any, outputs: tuple[Tensor, ...]) -> None:
        after = outputs[0].detach()
        changed = (after != before.pop()).any(-1)
        masks.append(changed & (after == after[..., :1]).all(-1))

    with contextlib.ExitStack() as handles:
        if specaug is not None:
            handles.enter_context(specaug.register_forward_pre_hook(keep))
            handles.enter_context(specaug.register_forward_hook(compare))
        yield masks


def masks_of_encoder(masks: Tensor, num_frames: int) -> Tensor:
    """Bring masks of features, (B, F), to T frames of the encoder, (B, T).

    A frame is masked if the features in its middle are. With F = 15 and T = 4 the
    encoder takes every fourth, and the middles are 2, 6, 10 and 14.
    """
    last = masks.size(1) - 1
    stride = max(round(masks.size(1) / num_frames), 1)
    middles = stride * torch.arange(num_frames, device=masks.device) + stride // 2
    return masks[:, middles.clamp(max=last)]


class DropoutSwitch:
    """Two sets of dropout rates for a model: as it was built, and for pseudo-labeling.

    slimIPL trains its supervised phase with much dropout, and lowers both rates to 0.1
    for pseudo-labeling (https://arxiv.org/abs/2010.11524, wav2letter recipes/slimIPL).
    The new rates, in [0, 1], replace those of dropout and recurrent layers, and of
    dropped layers; None leaves them, and so does an old rate of 0.

    Raises:
        ValueError: The model drops nothing of the kind that is to be changed.
    """

    def __init__(
        self,
        module: nn.Module,
        dropout: float | None,
        layer_drop: float | None,
        start_step: int = 0,
    ) -> None:
        self._rates: list[tuple[nn.Module, str, float, float]] = []
        self.start_step, self._on = start_step, False
        for what, new, places in (
            ("dropout", dropout, dropout_rates(module)),
            ("layer_drop", layer_drop, layer_drop_rates(module)),
        ):
            if new is None:
                continue
            old = [(part, name, getattr(part, name)) for part, name in places]
            rates = [(*rate, new) for rate in old if rate[-1] > 0]
            if not rates:
                raise ValueError(
                    f"pl_schedule_conf: {what} is {new}, but the model was built with "
                    f"none that can be changed"
                )
            self._rates += rates

    def at(self, step: int) -> None:
        """Set the rates of a step: from `start_step` on those of pseudo-labeling."""
        if (on := step >= self.start_step) != self._on:
            for part, name, before, after in self._rates:
                setattr(part, name, after if on else before)
            self._on = on
