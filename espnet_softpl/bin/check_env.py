"""Reports what of the environment (ESPnet, torch, ...) works, and what is missing.

One line for each part, with its version and, in a checkout with its constraints, the
one that was tested. Exit status 1: something necessary is missing or broken.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import io
import os
import platform
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

TESTED_PYTHON = "3.11"
PINS = Path(__file__).parents[2] / "tools" / "constraints.txt"
OPTIONAL = {  # What the extras that may be missing are for.
    "mini": "synthesizes the mini corpus",
    "recipe": "draws the recipe's plots, follows a training in the browser",
}
NO_DEPS = "pip install --no-deps {}  (without --no-deps pip may replace torch)"
REMOVE_EXTENSION = (
    "its CUDA extension does not fit this torch: install the matching torchaudio "
    "build, or delete the *.so files in torchaudio/lib of a private environment"
)


class Row(NamedTuple):
    """One line of the report; a status in capitals means that it must be mended."""

    name: str
    version: str
    tested: str
    status: str
    advice: str = ""

    @property
    def broken(self) -> bool:
        """Whether a training cannot run before this is mended."""
        return self.status.isupper()


def tested_versions() -> dict[str, str]:
    """Read the tested version by the name of a distribution; nothing in a wheel."""
    text = PINS.read_text(encoding="utf-8") if PINS.is_file() else ""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.M))


def requirements(extra: str) -> list[str]:
    """Name what an extra of setup.py asks for, or with "" what is always needed."""
    names = []
    for line in importlib.metadata.requires("espnet_softpl") or ():
        wanted, _, marker = line.partition(";")
        of = re.search(r"extra == ['\"](\w+)['\"]", marker)
        # Any other marker is for other versions of Python.
        if (of and of[1] == extra) or not (marker or extra):
            names.append(re.match(r"[\w.-]+", wanted)[0])
    return names


def import_error(module: str) -> str:
    """Import a module; return why that failed in one line, or an empty string."""
    sink = io.StringIO()  # g2p_en tries to download, others warn.
    try:
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(module)
    except Exception as error:  # A broken installation can raise anything.
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]}"
    return ""


def check_version(name: str, tested: str, missing: str, advice: str) -> Row:
    """Compare an installed distribution with the tested version, "-" if there is none.

    A local part such as "+cpu" is no difference. `missing` is the status if there is
    no such distribution.
    """
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Row(name, "-", tested, missing, advice)
    same = tested in ("-", version.split("+")[0])
    return Row(name, version, tested, "ok" if same else "differs from tested")


def _note(name: str, module: ModuleType) -> str:
    """Say what there is to know of a module that could be imported."""
    if name == "torch":
        cuda = module.version.cuda
        return f"CUDA {cuda} build" if cuda else "CPU build"
    if name == "torchaudio":
        loaded = getattr(module, "_IS_TORCHAUDIO_EXT_AVAILABLE", False)
        return "with its extension" if loaded else "without its extension (not needed)"
    return f"{module.__name__} imports"


def check_import(row: Row, module: str) -> Row:
    """Check that an installed distribution imports, too."""
    if row.broken:
        return row
    if error := import_error(module):
        if row.name == "torchaudio" and error.startswith("OSError"):
            error = REMOVE_EXTENSION
        return row._replace(status="BROKEN", advice=error)
    return row._replace(advice=_note(row.name, importlib.import_module(module)))


def check_all(quick: bool) -> Iterator[Row]:
    """Yield every row of the report, in the order in which things depend."""
    version = platform.python_version()
    same = version.startswith(f"{TESTED_PYTHON}.")
    yield Row("python", version, TESTED_PYTHON, "ok" if same else "differs from tested")
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Row("machine", f"{cores} cores, {gib:.0f} GiB", "-", "ok")
    pins = tested_versions()

    def check(name: str, missing: str, advice: str) -> Row:
        return check_version(name, pins.get(name, "-"), missing, advice)

    torch = check("torch", "MISSING", "run the project's tools/setup_venv.sh")
    torch = check_import(torch, "torch")
    yield torch
    if not torch.broken:
        cuda = importlib.import_module("torch").cuda
        gpu = cuda.get_device_name(0) if cuda.is_available() else "none"
        yield Row("GPU", gpu, "-", "ok")
    torchaudio = check("torchaudio", "MISSING", NO_DEPS.format("torchaudio"))
    yield check_import(torchaudio, "torchaudio._extension")
    for name in requirements(""):
        if name != "torch":
            tested = f"=={pins[name]}" if name in pins else ""
            yield check(name, "MISSING", f"pip install {name}{tested}")
    espnet = check("espnet", "MISSING", NO_DEPS.format("espnet==202511"))
    yield espnet if quick else check_import(espnet, "espnet2.tasks.asr")  # 7 s
    for extra, purpose in OPTIONAL.items():
        for name in requirements(extra):
            yield check(name, "optional", f"{purpose}: pip install {name}")


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; return 1 if something necessary is missing, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="do not import ESPnet, which takes 7 s"
    )
    quick = parser.parse_args(argv).quick
    if sys.version_info < (3, 10):
        parser.exit(1, "python: use 3.10 or later\n")
    print(f"{'part':<20} {'found':<20} {'tested':<8} {'status':<20} note")
    broken = []
    for row in check_all(quick):
        print("{:<20} {:<20} {:<8} {:<20} {}".format(*row).rstrip())
        broken += [row.name] if row.broken else []
    if broken:
        print(f"Not usable before this is mended: {', '.join(broken)}")
        return 1
    print("Everything necessary is there.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
