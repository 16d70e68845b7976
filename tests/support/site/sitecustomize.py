"""Typeguard's checks, prepared at a function's first call instead of at import.

ESPnet decorates some five hundred functions with `typechecked`, which parses and
compiles each of them anew: 4 of the 9 s of processor time that its import takes. The
processes of the tests, of which most call few of these functions, find this module in
PYTHONPATH (tests/conftest.py) and make the same checks, only later. Processes that do
not import typeguard do not import it here either (0.1 s).
"""

import importlib.machinery
import sys


def make_lazy(typeguard):
    """Replace the decorator of the module, as our commands do."""
    import runpy
    from pathlib import Path

    # By its path: some processes are those of an environment without this package.
    root = Path(__file__).resolve().parents[3]
    code = runpy.run_path(str(root / "espnet_softpl/core/quick_imports.py"))
    typeguard.typechecked = code["lazily"](typeguard.typechecked)


class Finder:
    """Finds typeguard for the import system."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Return where the module is, which is to be changed once it is loaded."""
        spec = None
        if name == "typeguard":
            spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            load = spec.loader.exec_module

            def load_and_change(module):
                load(module)
                make_lazy(module)

            spec.loader.exec_module = load_and_change
        return spec


if "typeguard" in sys.modules:
    make_lazy(sys.modules["typeguard"])
else:
    sys.meta_path.insert(0, Finder)
