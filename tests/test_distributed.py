"""Two processes on a CPU, through ESPnet's own distributed options."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from espnet_runs import HYBRID, PL, config, load, make_data, same_tensors

ROOT = Path(__file__).resolve().parents[1]


def run_two(options: dict, out: Path) -> None:
    """Train with two gloo processes, and wait for both."""
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(options, sort_keys=False))
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "espnet_softpl.bin.train"]
            + ["--config", str(path), "--output_dir", str(out), "--ngpu", "0"]
            + ["--dist_backend", "gloo", "--dist_world_size", "2"]
            + ["--dist_init_method", f"file://{out}.rendezvous"]
            + ["--dist_rank", str(rank)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    "criterion, changes",
    [("hard_ctc", {}), ("soft_ce", HYBRID), ("hard_ctc", HYBRID)],
    ids=["ctc-hard", "hybrid-soft", "hybrid-hard"],
)
def test_two_processes(tmp_path, criterion, changes) -> None:
    """Unlabeled steps end on both ranks, with one teacher and sound statistics."""
    data = make_data(tmp_path / "data")
    options = config(**data.options(), **PL, **changes)
    options.update(pl_criterion=criterion)
    out = tmp_path / "exp"
    run_two(options, out)
    first, second = (
        load(out / "pl_state" / f"2epoch.rank{rank}.pth")["teacher"]["model"]
        for rank in (0, 1)
    )
    names = [key for key in first if "running_" not in key]
    assert names
    # Batch-norm statistics are each process's own, as ESPnet's DDP has them.
    assert same_tensors({k: first[k] for k in names}, {k: second[k] for k in names})
    stats = load(out / "checkpoint.pth")["reporter"]["stats"][2]["train"]
    for key in ("loss", "loss_labeled", "loss_pl", "pl_frame_entropy", "pl_cer"):
        assert np.isfinite(stats[key]), key
