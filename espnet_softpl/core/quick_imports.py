"""ESPnet imported in half the time, and in silence.

ESPnet decorates some 500 functions with typeguard's `typechecked`, which compiles each
of them anew: 4 of the 9 s that its import takes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
from collections.abc import Callable, Iterator
from typing import Any


def lazily(eager: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `typechecked` that compiles a function's checks at its first call."""

    def typechecked(target: Any = None, **options: Any) -> Callable[..., Any]:
        if target is None:  # Used with arguments.
            return functools.partial(typechecked, **options)
        if not hasattr(target, "__code__"):  # A class, or a wrapped function.
            return eager(target, **options)
        compiled = functools.cache(lambda: eager(target, **options))

        @functools.wraps(target)
        def checked(*args: Any, **kwargs: Any) -> Any:
            return compiled()(*args, **kwargs)

        return checked

    return typechecked


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Let typeguard's checks wait for the first call; print and download nothing.

    Afterwards both libraries are as they were. One that is not installed is left out.
    """
    changes = (
        ("typeguard", "typechecked", lazily),
        ("nltk", "download", lambda _: lambda *args, **options: False),
    )
    with contextlib.ExitStack() as stack:
        for name, function, change in changes:
            if importlib.util.find_spec(name) is not None:
                module = importlib.import_module(name)
                before = getattr(module, function)
                stack.callback(setattr, module, function, before)
                setattr(module, function, change(before))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield
