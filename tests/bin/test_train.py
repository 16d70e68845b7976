"""The command `train`, and what commands do before ESPnet is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import ROOT

SCRIPT = """
import sys
from espnet_softpl.bin import add_pl, export
add_pl.get_parser(), export.get_parser()
assert not [name for name in sys.modules if name.startswith("espnet2")]
from espnet_softpl.bin import label, train
label.get_parser()
# An action of its parser is ESPnet's; nothing that takes time to import.
of_espnet = {name.split(".")[1] for name in sys.modules if name.startswith("espnet2.")}
assert of_espnet == {"utils"}, of_espnet
try:
    train.main(["--help"])
except SystemExit as end:
    assert not end.code
from espnet2.samplers.build_batch_sampler import build_batch_sampler
try:
    build_batch_sampler(type=5, batch_size=1, batch_bins=1, shape_files=[])
except Exception as error:
    print(type(error).__name__)  # Typeguard's: it still looks.
"""


@pytest.mark.slow
def test_help_needs_no_espnet_and_types_are_checked() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "TypeCheckError"
