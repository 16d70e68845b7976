"""A device that is none: tensors say that they are elsewhere, and lie on the CPU.

As on a GPU, an operation on tensors of two devices fails, and so does a tensor that is
read where it is not. What no machine without a GPU would show is shown: a tensor that
was made on the wrong device, and one that was never moved. Sums are the CPU's, so that
results must be equal to those without the device. torch's experimental backend in
Python carries it; `available` tells whether this torch has that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

SETUP = "_setup_privateuseone_for_python_backend"
available = hasattr(backend_registration, SETUP)
NAME = "pretend"
CPU = torch.device("cpu")
aten = torch.ops.aten
# A GPU takes these from the CPU.
MOVES = ("aten::_to_copy", "aten::copy_")
INDEXING = ("aten::index", "aten::index_put", "aten::_index_put_impl_")


class Elsewhere(torch.Tensor):
    """A tensor that says that it is on the pretended device."""

    content: torch.Tensor

    @staticmethod
    def __new__(cls, content: torch.Tensor) -> Elsewhere:
        """Wrap a tensor of the CPU."""
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls,
            content.size(),
            strides=content.stride(),
            storage_offset=content.storage_offset(),
            dtype=content.dtype,
            device=device(),
        )
        wrapper.content = content
        return wrapper

    def tolist(self) -> Any:
        """Return the values; torch has no `tolist` for what derives from a tensor."""
        return self.content.tolist()

    def __repr__(self) -> str:
        return f"Elsewhere({self.content})"

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        """Do an operation on the CPU, if a GPU would do it."""
        return _run(op, args, kwargs or {})


def _run(op: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    name = op._schema.name.split(".")[0]
    leaves = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    strangers = [x for x in leaves if not isinstance(x, Elsewhere) and x.dim() > 0]
    is_ours = any(isinstance(x, Elsewhere) for x in leaves)
    if is_ours and strangers and name not in MOVES:
        target = args[0] if name in INDEXING else None
        if not isinstance(target, Elsewhere):
            shapes = [tuple(x.shape) for x in strangers]
            raise RuntimeError(f"{op}: {shapes} of the CPU beside tensors of {NAME}")
    if kwargs.get("device") is not None:
        is_ours = torch.device(kwargs["device"]).type == NAME
        kwargs = {**kwargs, "device": CPU}
    wrappers: dict[int, Elsewhere] = {}

    def unwrap(value: Any) -> Any:
        if not isinstance(value, Elsewhere):
            return value
        wrappers[id(value.content)] = value
        return value.content

    def wrap(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not is_ours:
            return value
        if id(value) in wrappers:  # It was changed in place.
            return wrappers[id(value)]
        return Elsewhere(value)

    content_args, content_kwargs = tree_map(unwrap, (args, kwargs))
    result = op(*content_args, **content_kwargs)
    return args[0] if name == "aten::copy_" else tree_map(wrap, result)


def _factory(op: Any) -> Callable:
    def make(*args: Any, **kwargs: Any) -> torch.Tensor:
        return _run(op, args, {**kwargs, "device": device()})

    return make


def _copy_from(source: torch.Tensor, target: torch.Tensor, _: bool = False):
    source, target_content = (getattr(x, "content", x) for x in (source, target))
    target_content.copy_(source)
    return target


@functools.cache
def device() -> torch.device:
    """Return the device; it is registered with torch at the first call."""
    getattr(backend_registration, SETUP)(NAME)
    # What `torch.autocast` asks a device for, if only to be switched off there.
    half = [torch.float16, torch.bfloat16]
    getattr(torch, NAME).get_amp_supported_dtype = lambda: half
    library = torch.library.Library("aten", "IMPL")
    for op in (aten.empty.memory_format, aten.empty_strided.default):
        library.impl(op, _factory(op), "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    _kept.append(library)
    return torch.device(NAME, 0)


_kept: list[Any] = []  # Without it torch would forget the operations.


def move(module: torch.nn.Module) -> torch.nn.Module:
    """Move a module to the device, as `module.to("cuda")` would."""
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        return module.to(device())
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
