"""Typeguard's checks, prepared at a function's first call instead of at import.

ESPnet decorates some thousand functions with `typechecked`, which parses and compiles
each of them anew: 4 of the 10 s of processor time that its import takes. The processes
of the tests, of which most call few of these functions, find this module in PYTHONPATH
(tests/conftest.py) and make the same checks, only later.
"""

import functools
import importlib.util

if importlib.util.find_spec("typeguard"):
    import typeguard

    eager = typeguard.typechecked

    def typechecked(target=None, **options):
        """Wrap a function; anything else is left to typeguard."""
        if target is None:
            return functools.partial(typechecked, **options)
        if not hasattr(target, "__code__"):
            return eager(target, **options)

        @functools.wraps(target)
        def checked(*args, **kwargs):
            if checked.function is None:
                checked.function = eager(target, **options)
            return checked.function(*args, **kwargs)

        checked.function = None
        return checked

    typeguard.typechecked = typechecked
