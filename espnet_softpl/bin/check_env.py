"""Reports what of the environment (ESPnet, torch, ...) works, and what is missing.

``python -m espnet_softpl.bin.check_env`` prints one line per part with its version and
the version that was tested. Exit status 1: something necessary is missing or broken.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import io
import os
import platform
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

TESTED_PYTHON = "3.11"
ESPNET, TORCHAUDIO = "202511", "2.11.0"
# Distribution -> tested version; tools/constraints.txt pins the same ones.
NECESSARY = dict(
    pin.split("==")
    for pin in """
    torch==2.13.0 numpy==2.4.6 scipy==1.17.1 typeguard==4.6.0 packaging==26.3
    einops==0.8.2 hydra-core==1.3.8 opt_einsum==3.4.0 humanfriendly==10.0
    ConfigArgParse==1.9.0 PyYAML==6.0.3 librosa==0.11.0 soundfile==0.14.0
    h5py==3.16.0 kaldiio==2.18.1 torch-complex==0.4.4 sentencepiece==0.2.0
    editdistance==0.8.1 kaldialign==0.12.0 jamo==0.4.1 espnet_tts_frontend==0.0.4
    pypinyin==0.44.0 inflect==5.6.2 ci_sdr==0.0.2 fast_bss_eval==0.1.3
    """.split()
)
# Distribution -> tested version, what it is for.
OPTIONAL = {
    "espeakng-loader": ("0.2.4", "synthesizes the mini corpus"),
    "matplotlib": ("3.11.2", "draws the recipe's plots"),
    "tensorboard": ("2.21.0", "follows a training in the browser"),
}
NO_DEPS = "pip install --no-deps {}  (without --no-deps pip may replace torch)"
REMOVE_EXTENSION = (
    "its CUDA extension does not fit this torch: install the matching torchaudio "
    "build, or delete the *.so files in torchaudio/lib of a private environment"
)


class Row(NamedTuple):
    """One line of the report; ``status`` in capitals means that it must be mended."""

    name: str
    found: str
    tested: str
    status: str
    advice: str = ""

    @property
    def broken(self) -> bool:
        """Whether a training cannot run before this is mended."""
        return self.status.isupper()


@contextlib.contextmanager
def hushed() -> Iterator[None]:
    """Hide what imports print: download attempts of g2p_en, FutureWarnings."""
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield


def import_error(module: str) -> str:
    """Import a module; return why that failed in one line, or an empty string."""
    try:
        with hushed():
            importlib.import_module(module)
    except Exception as error:  # A broken installation can raise anything.
        lines = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {lines[0]}"
    return ""


def check_version(name: str, tested: str, missing: str, advice: str) -> Row:
    """Compare an installed distribution with the tested version.

    Args:
        name: Name of the distribution.
        tested: Version that was tested; a local part such as "+cpu" is no difference.
        missing: Status to report where it is not installed.
        advice: What to do where it is not installed.

    Returns:
        The row with status "ok", "differs from tested", or ``missing``.
    """
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Row(name, "-", tested, missing, advice)
    same = found.split("+")[0] == tested
    return Row(name, found, tested, "ok" if same else "differs from tested")


def check_python() -> Row:
    """Check the interpreter: 3.10 or later, tested with one version."""
    found = platform.python_version()
    if sys.version_info < (3, 10):
        return Row("python", found, TESTED_PYTHON, "TOO OLD", "use 3.10 or later")
    same = found.startswith(f"{TESTED_PYTHON}.")
    return Row("python", found, TESTED_PYTHON, "ok" if same else "differs from tested")


def check_torch() -> list[Row]:
    """Check that torch imports; name its build and the GPU that it can use."""
    row = check_version(
        "torch", NECESSARY["torch"], "MISSING", "run the project's tools/setup_venv.sh"
    )
    if row.broken:
        return [row]
    if error := import_error("torch"):
        return [row._replace(status="BROKEN", advice=error)]
    torch = importlib.import_module("torch")
    build = f"CUDA {torch.version.cuda} build" if torch.version.cuda else "CPU build"
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none"
    return [row._replace(advice=build), Row("GPU", gpu, "-", "ok")]


def check_torchaudio() -> Row:
    """Check that torchaudio, which ESPnet cannot do without, imports."""
    row = check_version(
        "torchaudio", TORCHAUDIO, "MISSING", NO_DEPS.format("torchaudio")
    )
    if row.broken:
        return row
    if error := import_error("torchaudio"):
        advice = REMOVE_EXTENSION if error.startswith("OSError") else error
        return row._replace(status="BROKEN", advice=advice)
    extension = importlib.import_module("torchaudio._extension")
    loaded = getattr(extension, "_IS_TORCHAUDIO_EXT_AVAILABLE", False)
    note = "with its extension" if loaded else "without its extension (not needed)"
    return row._replace(advice=note)


def check_espnet(quick: bool) -> Row:
    """Check ESPnet's version and, unless ``quick``, import its ASR task (7 s)."""
    row = check_version(
        "espnet", ESPNET, "MISSING", NO_DEPS.format(f"espnet=={ESPNET}")
    )
    if row.broken or quick:
        return row
    if error := import_error("espnet2.tasks.asr"):
        return row._replace(status="BROKEN", advice=error)
    return row._replace(advice="espnet2.tasks.asr imports")


def check_machine() -> Row:
    """State the usable processor cores and the memory."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Row("machine", f"{cores} cores, {gib:.0f} GiB", "-", "ok")


def check_all(quick: bool) -> list[Row]:
    """Return every row of the report, in the order in which things depend."""
    rows = [check_python(), check_machine(), *check_torch(), check_torchaudio()]
    for name, tested in NECESSARY.items():
        if name != "torch":
            advice = f"pip install {name}=={tested}"
            rows.append(check_version(name, tested, "MISSING", advice))
    rows.append(check_espnet(quick))
    for name, (tested, purpose) in OPTIONAL.items():
        advice = f"{purpose}: pip install {name}"
        rows.append(check_version(name, tested, "optional", advice))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; return 1 where something necessary is missing, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="do not import ESPnet, which takes 7 s"
    )
    rows = check_all(parser.parse_args(argv).quick)
    print(f"{'part':<20} {'found':<20} {'tested':<8} {'status':<20} note")
    for row in rows:
        line = "{:<20} {:<20} {:<8} {:<20} {}".format(*row)
        print(line.rstrip())
    broken = [row.name for row in rows if row.broken]
    if broken:
        print(f"Not usable before this is mended: {', '.join(broken)}")
        return 1
    print("Everything necessary is there.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
