"""ESPnet imported in half the time, for commands: its functions stay as written.

ESPnet decorates some 500 functions with typeguard's `typechecked`, which parses and
compiles each of them anew: 4 of the 9 s of processor time that its import takes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
from collections.abc import Callable, Iterator
from typing import Any

SWITCH = "ESPNET_SOFTPL_TYPEGUARD"  # 1 keeps the checks.
_ESPNET = ("espnet", "espnet2")


@contextlib.contextmanager
def quick_imports() -> Iterator[None]:
    """Let modules of ESPnet that are first imported here go without typeguard.

    A wrong type then ends in the error that ESPnet itself runs into, a little later.
    Only the `main` of a command may use this: a process that imports this package as a
    library keeps the checks. Whatever else is decorated in the meantime is checked, and
    afterwards typeguard is as it was. Nothing is changed if typeguard is not installed,
    or the environment variable `ESPNET_SOFTPL_TYPEGUARD` is 1.
    """
    if os.environ.get(SWITCH) == "1" or importlib.util.find_spec("typeguard") is None:
        yield
        return
    import typeguard

    checking = typeguard.typechecked

    def typechecked(target: Any = None, **options: Any) -> Callable[..., Any]:
        if target is None:  # Used with arguments.
            return functools.partial(typechecked, **options)
        package = (getattr(target, "__module__", None) or "").partition(".")[0]
        return target if package in _ESPNET else checking(target, **options)

    typeguard.typechecked = typechecked
    try:
        yield
    finally:
        typeguard.typechecked = checking
