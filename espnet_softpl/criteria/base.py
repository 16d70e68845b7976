"""What a pseudo-label is, what a criterion is, and how a name becomes one.

B utterances, T frames after subsampling, V tokens with blank, U labels.
"""

from __future__ import annotations

import abc
import difflib
import importlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import torch


class PseudoLabel(NamedTuple):
    """Everything a teacher says about a batch of unlabeled utterances.

    Attributes:
        log_probs: The teacher's frame log-posteriors, (B, T, V), without gradient.
        lengths: Frames per utterance, (B,).
        tokens: The teacher's transcript, (B, U), padded with -1.
        token_lengths: Tokens per utterance, (B,).
        weight: Trust in each utterance, (B,), at least 0; 0 leaves it out exactly.
    """

    log_probs: torch.Tensor
    lengths: torch.Tensor
    tokens: torch.Tensor
    token_lengths: torch.Tensor
    weight: torch.Tensor


class PLCriterion(torch.nn.Module, abc.ABC):
    """The loss of a student against a pseudo-label.

    Subclasses implement `forward` and take their settings as keyword arguments. A
    criterion knows nothing of reduction, mixed precision, processes, filtering or the
    step count.

    Attributes:
        frame_level: True where the target is one distribution (or token) per frame,
            so that the student's augmentation must not move frames in time.
        trains_decoder: True where the target is a transcript on which the attention
            decoder of a hybrid model can be trained too.
    """

    frame_level: bool = False
    trains_decoder: bool = False

    def __init__(self) -> None:
        # Stated, for torch's own takes any argument: settings can then be checked.
        super().__init__()

    @abc.abstractmethod
    def forward(
        self,
        log_probs: torch.Tensor,
        lengths: torch.Tensor,
        pseudo_label: PseudoLabel,
    ) -> torch.Tensor:
        """Compute the loss of each utterance.

        Args:
            log_probs: The student's normalized frame log-posteriors, (B, T, V).
            lengths: Frames per utterance, (B,).
            pseudo_label: The teacher's label of the same utterances.

        Returns:
            (B,), in nats per utterance (a sum over frames, not a mean).
        """


_REGISTRY: dict[str, type[PLCriterion]] = {}


def register(name: str) -> Callable[[type[PLCriterion]], type[PLCriterion]]:
    """Make a criterion known by a short name.

    Args:
        name: The name used in YAML, lower case.

    Returns:
        A class decorator that returns the class unchanged.
    """

    def decorate(criterion: type[PLCriterion]) -> type[PLCriterion]:
        _REGISTRY[name] = criterion
        return criterion

    return decorate


def available() -> tuple[str, ...]:
    """Return the names of the built-in criteria, sorted."""
    return tuple(sorted(_REGISTRY))


def get_class(name: str) -> type[PLCriterion]:
    """Find a criterion's class.

    Args:
        name: A built-in name, or a dotted path `package.module:Class`.

    Returns:
        The class.

    Raises:
        ValueError: There is no such name or path, or it is not a `PLCriterion`.
    """
    if name in _REGISTRY:
        return _REGISTRY[name]
    if ":" not in name:
        near = difflib.get_close_matches(name, available(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"pl_criterion: unknown criterion {name!r}.{hint} Legal: "
            f"{', '.join(available())}, or your own as 'module:Class'."
        )
    module_name, _, class_name = name.partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"pl_criterion: cannot load {name!r}: {error}. A dotted path is "
            f"'module:Class', with the module's directory on PYTHONPATH."
        ) from error
    if not (inspect.isclass(found) and issubclass(found, PLCriterion)):
        raise ValueError(
            f"pl_criterion: {name!r} is not a subclass of "
            f"espnet_softpl.criteria.PLCriterion"
        )
    return found


def build(name: str, **conf: Any) -> PLCriterion:
    """Build a criterion from its name and settings.

    Args:
        name: A built-in name, or a dotted path `package.module:Class`.
        **conf: The criterion's own keyword arguments (`pl_criterion_conf`).

    Returns:
        The criterion.

    Raises:
        ValueError: Unknown criterion, unknown setting, or a value that the criterion
            refuses.
    """
    return build_from_conf(get_class(name), conf, "pl_criterion_conf")


def build_from_conf(factory: Callable[..., Any], conf: dict[str, Any], key: str) -> Any:
    """Call a factory with settings from YAML, refusing what it does not know.

    Args:
        factory: A class or function with keyword arguments.
        conf: The settings.
        key: The YAML key that the settings come from, for messages.

    Returns:
        What the factory returns.

    Raises:
        ValueError: A setting that the factory does not have, one that is missing, or
            a value that it refuses.
    """
    parameters = inspect.signature(factory).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in conf:
            if name not in parameters:
                near = difflib.get_close_matches(str(name), parameters, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                legal = ", ".join(parameters) or "none (it has no settings)"
                raise ValueError(f"{key}: unknown key {name!r}.{hint} Legal: {legal}.")
    try:
        return factory(**conf)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key}: {error}") from error
