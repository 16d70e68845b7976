"""What is slow in ESPnet's import and seldom used, done at its first use.

Of the 10 s of processor time that the import takes, 4 are typeguard's, which parses and
compiles anew each of some thousand functions that are decorated with `typechecked`. 3
more load libraries for phonemes, reverberation, S4 decoders and plots of attention. The
processes of the tests find this module in PYTHONPATH (tests/conftest.py). They make the
same checks and the same calls, only later.
"""

import functools
import importlib.util
import sys
import types

ATTENTIONS = "espnet2.main_funcs.calculate_all_attentions"


def calculate_all_attentions(*args, **kwargs):
    """Import the function, and call it."""
    if sys.modules[ATTENTIONS] is stand_in:
        del sys.modules[ATTENTIONS]
    module = importlib.import_module(ATTENTIONS)
    return module.calculate_all_attentions(*args, **kwargs)


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


class LazyFinder:
    """Has the named modules loaded when one of their attributes is asked for."""

    names = {"g2p_en", "hydra", "nltk", "scipy.signal"}

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        """Return the spec with a lazy loader; None for all other modules."""
        if name not in cls.names:
            return None
        cls.names.remove(name)  # The other finders are asked below.
        spec = importlib.util.find_spec(name)
        if spec is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


if importlib.util.find_spec("typeguard"):
    import typeguard

    eager = typeguard.typechecked
    typeguard.typechecked = typechecked
    sys.meta_path.insert(0, LazyFinder)
    stand_in = types.ModuleType(ATTENTIONS)
    stand_in.calculate_all_attentions = calculate_all_attentions
    sys.modules[ATTENTIONS] = stand_in
