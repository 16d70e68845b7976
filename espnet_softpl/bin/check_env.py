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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from espnet_softpl.commands.arguments import Parser

PINS = Path(__file__).parents[2] / "tools" / "constraints.txt"
OPTIONAL = {  # What the extras that may be missing are for.
    "mini": "synthesizes the mini corpus",
    "recipe": "draws the recipe's plots, follows a training in the browser",
}
NO_DEPS = "pip install --no-deps {}  (without --no-deps pip may replace torch)"


class Row(NamedTuple):
    """One line of the report; a status in capitals means that it must be fixed."""

    name: str
    version: str
    tested: str = "-"
    status: str = "ok"
    advice: str = ""

    @property
    def broken(self) -> bool:
        """Whether a training cannot run until this is fixed."""
        return self.status.isupper()


def tested_versions() -> dict[str, str]:
    """Read the tested version by the name of a distribution; nothing in a wheel."""
    text = PINS.read_text(encoding="utf-8") if PINS.is_file() else ""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.M))


def requirements(extra: str) -> list[str]:
    """Name what setup.py lists for an extra, or, if that is "", for every user."""
    # Any other marker is for other versions of Python.
    marker = f'extra == "{extra}"' if extra else ""
    lines = importlib.metadata.requires("espnet_softpl") or ()
    parts = [line.replace("'", '"').partition(";") for line in lines]
    return [re.match(r"[\w.-]+", p[0])[0] for p in parts if p[2].strip() == marker]


def check_version(name: str, tested: str, missing: str, advice: str) -> Row:
    """Compare an installed distribution with the tested version; "-" fits all."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Row(name, "-", tested, missing, advice)
    same = tested in ("-", version.split("+")[0])  # 2.13.0+cpu is 2.13.0.
    return Row(name, version, tested, "ok" if same else "differs from tested")


def first_line(error: Exception) -> str:
    """Say what an error is, without what its message has after the first line."""
    return f"{type(error).__name__}: {error}".partition("\n")[0].strip()


def check_import(row: Row, module: str) -> Row:
    """Check that an installed distribution imports, too."""
    if row.broken:
        return row
    sink = io.StringIO()  # g2p_en tries to download, others warn.
    try:
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            importlib.import_module(module)
    except Exception as error:  # A broken installation can raise anything.
        reason = first_line(error)
        if row.name == "torchaudio" and isinstance(error, OSError):
            reason = (
                "its CUDA extension does not fit this torch: install the matching "
                "build, or delete torchaudio/lib/*.so in a private environment"
            )
        return row._replace(status="BROKEN", advice=reason)
    return row._replace(advice=f"{module} imports")


def check_kernels(row: Row) -> Row:
    """Check that numba compiles the loops over frames, and keep them compiled.

    The first training of a checkout would wait for that instead.
    """
    import torch

    from espnet_softpl.ctc.beam_search import prefix_beam_search
    from espnet_softpl.ctc.loss import ctc_nll
    from espnet_softpl.ctc.viterbi import viterbi

    log_probs = torch.zeros(1, 3, 3).log_softmax(-1).requires_grad_()
    lengths = torch.tensor([3])
    try:
        nbest = prefix_beam_search(log_probs.detach(), lengths, nbest=1, beam_size=2)
        transcripts = nbest.tokens, nbest.token_lengths
        ctc_nll(log_probs, lengths, *transcripts).sum().backward()
        viterbi(log_probs, lengths, *(part[:, 0] for part in transcripts))
    except Exception as error:  # As above.
        return row._replace(status="BROKEN", advice=first_line(error))
    return row._replace(advice="compiles")


def check_all(quick: bool) -> Iterator[Row]:
    """Yield every row of the report, in the order in which things depend."""
    pins = tested_versions()

    def check(name: str, missing: str, advice: str) -> Row:
        return check_version(name, pins.get(name, "-"), missing, advice)

    version = platform.python_version()
    status = "ok" if version.startswith("3.11.") else "differs from tested"
    status = status if sys.version_info >= (3, 10) else "TOO OLD"
    yield Row("python", version, "3.11", status, "3.10 or later works")
    cores = len(os.sched_getaffinity(0))
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Row("machine", f"{cores} cores, {gib:.0f} GiB")
    torch = check("torch", "MISSING", "run the project's tools/setup_venv.sh")
    yield (torch := check_import(torch, "torch"))
    if not torch.broken:
        cuda = importlib.import_module("torch").cuda
        yield Row("GPU", cuda.get_device_name(0) if cuda.is_available() else "none")
    torchaudio = check("torchaudio", "MISSING", NO_DEPS.format("torchaudio"))
    yield check_import(torchaudio, "torchaudio._extension")
    for name in requirements(""):
        if name != "torch":
            pin = f"=={pins[name]}" if name in pins else ""
            row = check(name, "MISSING", f"pip install {name}{pin}")
            compiles = name == "numba" and not (quick or row.broken or torch.broken)
            yield check_kernels(row) if compiles else row
    espnet = check("espnet", "MISSING", NO_DEPS.format("espnet==202511"))
    yield espnet if quick else check_import(espnet, "espnet2.tasks.asr")
    for extra, purpose in OPTIONAL.items():
        for name in requirements(extra):
            yield check(name, "optional", f"{purpose}: pip install {name}")


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = Parser(__doc__)
    text = "do not import ESPnet (7 s), nor compile loops (15 s at first)"
    parser.add_argument("--quick", action="store_true", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; return 1 if something necessary is missing, else 0."""
    quick = get_parser().parse_args(argv).quick
    print(f"{'part':<20} {'found':<20} {'tested':<8} {'status':<20} note")
    broken = []
    for row in check_all(quick):
        print("{:<20} {:<20} {:<8} {:<20} {}".format(*row).rstrip())
        broken += [row.name] if row.broken else []
    if broken:
        print(f"Not usable until this is fixed: {', '.join(broken)}")
        return 1
    print("Everything necessary is there.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
