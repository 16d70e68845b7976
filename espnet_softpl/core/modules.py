"""Torch from outside: a module's modes, copies and structure, tensors' values."""

from __future__ import annotations

import collections
import contextlib
import copy
import itertools
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from espnet_softpl.core.errors import UserError, name_some


def dropouts(module: nn.Module) -> list[nn.Module]:
    """List the parts of a module that drop activations in train mode."""
    return [part for part, _ in dropout_rates(module)]


def drops_layers(module: nn.Module) -> bool:
    """Tell whether a module drops whole layers in train mode."""
    return any(getattr(part, name) > 0 for part, name in layer_drop_rates(module))


def dropout_rates(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """List the parts that drop activations, each with the attribute of its rate."""
    kinds = {_DropoutNd: "p", nn.RNNBase: "dropout"}
    pairs = itertools.product(module.modules(), kinds.items())
    return [(part, name) for part, (kind, name) in pairs if isinstance(part, kind)]


def layer_drop_rates(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """List the parts that drop layers, each with the attribute of its rate."""
    # ESPnet's names of it: of a stack, or of one layer.
    names = ("layer_drop_rate", "stochastic_depth_rate")
    pairs = itertools.product(module.modules(), names)
    return [(part, n) for part, n in pairs if isinstance(getattr(part, n, None), float)]


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[nn.Module]:
    """Put a module in eval mode, and every part of it back as it was afterwards.

    A `frozen_copy` is in it, and what is changed inside is not changed back.
    """
    if getattr(module, "always_evaluates", False):
        yield module
        return
    # Only the flags, no eval(): some adapters (LoRA) merge their weights into those
    # below them when it is called, and the student has to go on training unmerged.
    modes = [(part, part.training) for part in module.modules()]
    for part, _ in modes:
        part.training = False
    try:
        yield module
    finally:
        for part, training in modes:
            part.training = training


def frozen_copy(module: nn.Module) -> nn.Module:
    """Copy a module, in the middle of training, to float32, eval mode, no gradients."""
    # Attention layers keep the weights of their last call, with their graph, which
    # cannot be copied and must not be: the copy starts without them.
    results = {
        id(value): None
        for part in module.modules()
        for value in vars(part).values()
        if isinstance(value, Tensor) and value.grad_fn is not None
    }
    clone = copy.deepcopy(module, results).float().requires_grad_(False)
    for part in clone.modules():
        part.training = False  # As in `evaluating`: what eval() merged would not match.
    for parameter in clone.parameters():
        parameter.grad = None
    clone.always_evaluates = True  # Its parts need not be asked.
    return clone


def check_structure(
    weights: Mapping[str, Tensor], model: Mapping[str, Tensor], what: str
) -> None:
    """Raise UserError if names or shapes of weights are not those of a state dict."""
    both = weights.keys() & model.keys()
    faults = {
        "missing": model.keys() - both,
        "unknown": weights.keys() - both,
        "of another shape": {n for n in both if weights[n].shape != model[n].shape},
    }
    found = [f"{len(n)} {fault} ({name_some(n)})" for fault, n in faults.items() if n]
    if found:
        raise UserError(f"{what} do not fit the model: {'; '.join(found)}")


def average(
    states: Iterable[Mapping[str, Tensor]], shares: Iterable[float] | None = None
) -> dict[str, Tensor]:
    """Average the weights of several models, into new tensors.

    Floating-point tensors are summed in float64 and returned in the first model's
    precision, but at least in float32. A tensor with a value that is not finite
    (batch-norm statistics after one bad batch) is left out of its average; if all are
    such, it is the first model's. So are all other tensors, such as batch norm's
    counters: a sum of counters would count batches that no model has seen.

    `states` are of the same structure, the best model's first, read one after the
    other. `shares` are the models' weights, at least 0, not all 0, or 1 for each; a
    model of weight 0 is left out, except for what only the first one gives. ValueError
    if there is no state, or another structure or number of shares.
    """
    first: Mapping[str, Tensor] | None = None
    totals: dict[str, Tensor] = {}
    counts: collections.Counter[str] = collections.Counter()
    weights = itertools.repeat(1.0) if shares is None else shares
    for state, share in zip(states, weights, strict=shares is not None):
        first = state if first is None else first
        check_structure(state, first, "the weights of models to average")
        for name, value in state.items():
            finite = value.is_floating_point() and bool(value.isfinite().all())
            if share == 0.0 or not finite:
                continue
            if name in totals:
                totals[name].add_(value, alpha=share)
            else:
                totals[name] = value.to(torch.float64, copy=True).mul_(share)
            counts[name] += share
    if first is None:
        raise ValueError("there is no model to average")
    averages = {}
    for name, value in first.items():
        mean = totals[name] / counts[name] if name in totals else value.clone()
        if value.is_floating_point():
            mean = mean.to(torch.promote_types(value.dtype, torch.float32))
        averages[name] = mean
    return averages


def read_values(values: Mapping[str, Tensor | float]) -> dict[str, float]:
    """Turn tensors of one element into numbers in one go: a host waits for a GPU."""
    waiting = {k: v.detach() for k, v in values.items() if isinstance(v, Tensor)}
    if not waiting:
        return dict(values)
    row = torch.cat([value.reshape(1) for value in waiting.values()])
    return {**values, **dict(zip(waiting, row.tolist()))}


def read_columns(**columns: Tensor) -> dict[str, list[int]]:
    """Turn tensors of one shape, (B,), bool or integer, into lists, by name."""
    return dict(zip(columns, torch.stack(list(columns.values())).tolist()))
