"""ESPnet imported in half the time, and in silence.

ESPnet decorates some 500 functions with typeguard's `typechecked`, which compiles each
of them anew: 4 of the 9 s that its import takes. Then each call is checked, also the
two thousandth of the reporter in an epoch, which takes 0.7 % of a small model's step.
Another second is g2p_en, which imports nltk and tries to download, and which ASR in
letters or BPE never uses.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any


def lazily(eager: Callable[..., Any]) -> Callable[..., Any]:
    """Return a `typechecked` that checks calls of a function until one passes.

    The checks are compiled at the first call.
    """

    def typechecked(target: Any = None, **options: Any) -> Callable[..., Any]:
        if target is None:  # Used with arguments.
            return functools.partial(typechecked, **options)
        if not hasattr(target, "__code__"):  # A class, or a wrapped function.
            return eager(target, **options)
        compiled = functools.cache(lambda: eager(target, **options))
        passed = False

        @functools.wraps(target)
        def checked(*args: Any, **kwargs: Any) -> Any:
            nonlocal passed
            if passed:
                return target(*args, **kwargs)
            result = compiled()(*args, **kwargs)
            passed = True
            return result

        return checked

    return typechecked


def postpone(name: str) -> None:
    """Let a package be imported when something of it is first used.

    torch looks at the file of every imported module, which importlib's own LazyLoader
    takes for a use.
    """
    if name in sys.modules or (spec := importlib.util.find_spec(name)) is None:
        return
    proxy = types.ModuleType(name)

    def load(attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        if sys.modules.get(name) is proxy:
            del sys.modules[name]
        return getattr(importlib.import_module(name), attribute)

    places = spec.submodule_search_locations
    facts = dict(__spec__=spec, __file__=spec.origin, __path__=places)
    vars(proxy).update(facts, __getattr__=load)
    sys.modules[name] = proxy


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Let typeguard's checks and g2p_en wait for the first use; print nothing.

    A function's calls are checked until one has passed. Afterwards typeguard is as it
    was. What is not installed is left out.
    """
    postpone("g2p_en")  # Which imports nltk, and downloads.
    with contextlib.ExitStack() as stack:
        if importlib.util.find_spec("typeguard") is not None:
            typeguard = importlib.import_module("typeguard")
            before = typeguard.typechecked
            stack.callback(setattr, typeguard, "typechecked", before)
            typeguard.typechecked = lazily(before)
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield
