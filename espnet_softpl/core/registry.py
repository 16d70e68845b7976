"""Parts: from a name in YAML to an object, registered or by a user's dotted path."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

from espnet_softpl.core.errors import UserError
from espnet_softpl.core.ranges import WholeEnds

T = TypeVar("T")


class Stateful:
    """Something with a state of tensors and plain values; none unless overridden."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""


class Registry(Generic[T]):
    """The classes that one YAML key can name.

    >>> REGISTRY = Registry("pl_criterion", PLCriterion)
    >>> @REGISTRY.register("mine")
    ... class Mine(PLCriterion): ...
    >>> REGISTRY.build("mine", weight=0.5)

    Args:
        key: The YAML key, e.g. `pl_criterion`; the settings' key is `<key>_conf`.
        base: What a user's own class must derive from.
        optional: Whether the name `none` is allowed, for no object.
    """

    def __init__(self, key: str, base: type[T], optional: bool = False) -> None:
        self.key, self.base, self.optional = key, base, optional
        self._classes: dict[str, Callable[..., T]] = {}

    def register(self, name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
        """Return a decorator that makes a class known by a short, lower-case name."""

        def decorate(cls: Callable[..., T]) -> Callable[..., T]:
            self._classes[name] = cls
            return cls

        return decorate

    def classes(self) -> dict[str, Callable[..., T]]:
        """Return the registered classes by name, sorted."""
        return dict(sorted(self._classes.items()))

    def available(self) -> tuple[str, ...]:
        """Return the registered names, sorted."""
        return tuple(self.classes())

    def allowed(self) -> str:
        """Return what the key may be, as a list in words."""
        names = [*self.available(), *(["none"] if self.optional else [])]
        return f"{', '.join(names)}, or your own as 'module:Class'"

    def get_class(self, name: str) -> Callable[..., T]:
        """Return the class of a name, or of a path `package.module:Class`."""
        if name in self._classes:
            return self._classes[name]
        if ":" not in str(name):
            raise UserError(
                f"{self.key}: unknown {self.key.removeprefix('pl_')} {name!r}."
                f"{did_you_mean(name, self._classes)} Allowed: {self.allowed()}."
            )
        module_name, _, class_name = name.partition(":")
        try:
            cls = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(
                f"{self.key}: cannot load {name!r}: {error}. A dotted path is "
                f"'module:Class', with the module's directory on PYTHONPATH."
            ) from error
        if not (inspect.isclass(cls) and issubclass(cls, self.base)):
            raise UserError(
                f"{self.key}: {name!r} is not a subclass of "
                f"{self.base.__module__}.{self.base.__qualname__}"
            )
        return cls

    def build(self, name: str | None, /, **conf: Any) -> T | None:
        """Build an object from its name, or `package.module:Class`, and settings.

        The name `none` (or None) of an optional part gives None. UserError for an
        unknown name or setting, or a value that the class refuses.
        """
        if self.optional and name in (None, "none"):
            return None
        return build_from_conf(self.get_class(name), conf, f"{self.key}_conf")


def did_you_mean(word: Any, allowed: Iterable[str]) -> str:
    """Return a hint " Did you mean 'x'?" if an allowed word is near, else ""."""
    near = difflib.get_close_matches(str(word), list(allowed), n=1, cutoff=0.65)
    return f" Did you mean {near[0]!r}?" if near else ""


def build_from_conf(factory: Callable[..., T], conf: Mapping[str, Any], key: str) -> T:
    """Call a class or function with settings that stand under a YAML key.

    A value between integers is rounded for a parameter that is annotated `int`, and for
    no other. UserError for a setting that it does not have, one that is missing, or a
    value that it refuses.
    """
    parameters = inspect.signature(factory).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in () if takes_any else conf:
        if name not in parameters:
            allowed = ", ".join(parameters) or "none (it has no settings)"
            hint = did_you_mean(name, parameters)
            raise UserError(f"{key}: unknown key {name!r}.{hint} Allowed: {allowed}.")
    conf = dict(conf)
    for name, value in conf.items():
        if isinstance(value, WholeEnds) and name in parameters:
            annotation = inspect.formatannotation(parameters[name].annotation)
            words = re.findall(r"\w+", annotation)
            if "int" in words and "float" not in words:
                conf[name] = round(value)
    try:
        return factory(**conf)
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}: {error}") from error


def named_confs(
    key: str, names: str | Sequence[str], conf: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Assign settings, by name if there are several, to the parts that a key names."""
    names = [names] if isinstance(names, str) else list(names)
    if len(set(names)) < len(names):
        raise UserError(f"{key}: {names} names one of them twice")
    if len(names) == 1 and set(conf) != set(names):
        return {names[0]: dict(conf)}
    for name, value in conf.items():
        if name not in names or not isinstance(value, Mapping):
            raise UserError(
                f"{key}_conf: {name!r} is not among {names}; with several parts, each "
                f"one's settings go under its name"
            )
    return {name: dict(conf.get(name, {})) for name in names}
