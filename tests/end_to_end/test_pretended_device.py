"""Every part on a device that is pretended: what a GPU would refuse is refused here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests import ROOT
from tests.support import pretend_device

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not pretend_device.available, reason="this torch has no devices in Python"
    ),
]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process that has made no backward pass yet."""
    command = [sys.executable, "-W", "ignore", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_every_part_computes_there_what_it_computes_here() -> None:
    """Losses and statistics, to the last bit, also after a resume."""
    ended = run("-m", "tests.support.device_steps")
    assert ended.returncode == 0, ended.stderr
    lines = [line for line in ended.stdout.splitlines() if line.startswith("[")]
    faults = dict(map(json.loads, lines))
    assert len(faults) >= 40
    for case, fault in faults.items():
        assert not fault, f"{case}: {fault}"


def test_a_tensor_of_the_wrong_device_is_told() -> None:
    script = """
import torch
from tests.support.pretend_device import device
ones = torch.ones(2, device=device())
assert (ones + 1).cpu().tolist() == [2.0, 2.0]
ones + torch.ones(2)
"""
    ended = run("-c", script)
    assert ended.returncode == 1
    assert "RuntimeError: aten.add.Tensor: [(2,)] of the CPU" in ended.stderr
