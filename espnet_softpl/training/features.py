"""The features of a mini-batch, extracted once: for teacher, student and both views."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import torch
from espnet2.asr.frontend.default import DefaultFrontend
from torch import Tensor, nn

Tensors = tuple[Tensor, Tensor]  # Audio or features, and their lengths.
Extract = Callable[[Tensor, Tensor], Tensors]


class _Memo:
    """What was extracted from which tensor."""

    def __init__(self) -> None:
        # By the tensors' ids, with the tensors: as long as they live, no other has it.
        self.known: dict[int, tuple[Tensor, Tensors]] = {}
        self.repeats: dict[int, tuple[Tensor, Tensors, int]] = {}

    def get(self, speech: Tensor, lengths: Tensor, extract: Extract) -> Tensors:
        """Return features that may be written into."""
        if id(speech) in self.repeats:
            _, one, count = self.repeats[id(speech)]
            return tuple(torch.cat([part] * count) for part in self.get(*one, extract))
        if id(speech) not in self.known:
            self.known[id(speech)] = speech, extract(speech, lengths)
        return tuple(part.clone() for part in self.known[id(speech)][1])


_memo: contextvars.ContextVar[_Memo | None] = contextvars.ContextVar(
    "memo", default=None
)


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """Extract features once from each tensor of waveforms, in the block or function."""
    token = _memo.set(_Memo())
    try:
        yield
    finally:
        _memo.reset(token)


def repeated(speech: Tensor, lengths: Tensor, count: int) -> Tensors:
    """Repeat waveforms (B, N) and lengths (B,), one copy after the other."""
    if count == 1:
        return speech, lengths
    copies = torch.cat([speech] * count), torch.cat([lengths] * count)
    if memo := _memo.get():
        memo.repeats[id(copies[0])] = copies[0], (speech, lengths), count
    return copies


def depend_on_audio_alone(frontend: nn.Module | None) -> bool:
    """Tell whether a teacher's features are its student's, in either mode.

    They are those of ESPnet's log-mel front end in float32; beamforming is learned.
    """
    return (
        type(frontend) is DefaultFrontend
        and not any(True for _ in frontend.parameters())
        and all(buffer.dtype == torch.float32 for buffer in frontend.buffers())
    )


def of(
    frontend: nn.Module | None, speech: Tensor, lengths: Tensor, extract: Extract
) -> Tensors:
    """Extract features, or take those that are known, if that makes no difference.

    With several channels it does: a student takes any of them.
    """
    memo = _memo.get()
    if memo is None or speech.dim() != 2 or not depend_on_audio_alone(frontend):
        return extract(speech, lengths)
    return memo.get(speech, lengths, extract)
