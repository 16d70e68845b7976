"""Which of the student's frames SpecAugment has masked in time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def recorded(specaug: torch.nn.Module | None) -> Iterator[list[torch.Tensor]]:
    """Record the time masks that ESPnet's SpecAugment draws; of None, nothing.

    It tells nobody where they are: its features before and after are compared. A masked
    frame is one that was changed, and in which all bins now have the same value (0, or
    a mean); a mask of frequencies leaves others in it.

    Yields:
        A list that gets (B, F), bool, for each call, F frames of features.
    """
    masks: list[torch.Tensor] = []
    if specaug is None:
        yield masks
        return
    before: list[torch.Tensor] = []

    def keep(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        before.append(inputs[0].detach().clone())  # It may write into its input.

    def compare(
        _: torch.nn.Module,
        inputs: tuple[torch.Tensor, ...],
        outputs: tuple[torch.Tensor, ...],
    ) -> None:
        after = outputs[0].detach()
        changed = (after != before.pop()).any(-1)
        masks.append(changed & (after == after[..., :1]).all(-1))

    handles = [
        specaug.register_forward_pre_hook(keep),
        specaug.register_forward_hook(compare),
    ]
    try:
        yield masks
    finally:
        for handle in handles:
            handle.remove()


def of_encoder(masks: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Bring masks of features, (B, F), to T frames of the encoder, (B, T).

    A frame is masked if the features in its middle are. With F = 15 and T = 4 the
    encoder takes every fourth, and the middles are 2, 6, 10 and 14.
    """
    last = masks.size(1) - 1
    stride = max(round(masks.size(1) / num_frames), 1)
    middles = stride * torch.arange(num_frames, device=masks.device) + stride // 2
    return masks[:, middles.clamp(max=last)]
