"""ESPnet imported in half the time: typeguard looks at functions when first called.

ESPnet decorates some 500 functions with typeguard's `typechecked`, which parses and
compiles each of them anew: 4 of the 9 s of processor time that its import takes. A
command calls few of them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any


def lazily(eager: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `typechecked` that compiles a function's checks at its first call."""

    def typechecked(target: Any = None, **options: Any) -> Callable[..., Any]:
        if target is None:  # Used with arguments.
            return functools.partial(typechecked, **options)
        if not hasattr(target, "__code__"):  # A class, or a wrapped function.
            return eager(target, **options)
        compiled: list[Callable[..., Any]] = []

        @functools.wraps(target)
        def checked(*args: Any, **kwargs: Any) -> Any:
            if not compiled:
                compiled.append(eager(target, **options))
            return compiled[0](*args, **kwargs)

        return checked

    return typechecked


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Let typeguard's checks of modules that are imported here wait for the first call.

    The checks are the same, and so are their errors; they are only compiled later. For
    the `main` of a command: afterwards typeguard is as it was. Nothing is changed if it
    is not installed.
    """
    if importlib.util.find_spec("typeguard") is None:
        yield
        return
    import typeguard

    eager = typeguard.typechecked
    typeguard.typechecked = lazily(eager)
    try:
        yield
    finally:
        typeguard.typechecked = eager
