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


# Fires again and again, whatever the model does.
JUMPY = dict(
    pl_separate_head=True,
    pl_guard="back_off",
    pl_guard_conf=dict(
        reference_steps=1,
        window=1,
        patience=1,
        max_back_offs=99,
        limits={"pl_frame_entropy": {"above": 1e-6}},
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "criterion, changes",
    [
        ("hard_ctc", {}),
        ("soft_ce", HYBRID),
        ("hard_ctc", HYBRID),
        ("consistency", JUMPY),
    ],
    ids=["ctc-hard", "hybrid-soft", "hybrid-hard", "two-views-back-off"],
)
def test_two_processes(tmp_path, criterion, changes) -> None:
    """Unlabeled steps end on both ranks, with one teacher and sound statistics."""
    data = make_data(tmp_path / "data")
    options = config(**data.options(), **PL, **changes)
    options.update(pl_criterion=criterion)
    out = tmp_path / "exp"
    run_two(options, out)
    states = [load(out / "pl_state" / f"2epoch.rank{rank}.pth") for rank in (0, 1)]
    # Both processes decide the same, from the same averages.
    assert repr(states[0]["guard"]) == repr(states[1]["guard"])
    assert (states[0]["guard"]["back_offs"] > 0) == (changes is JUMPY)
    if changes is JUMPY:
        assert same_tensors(states[0]["head"], states[1]["head"])
    stats = load(out / "checkpoint.pth")["reporter"]["stats"][2]["train"]
    for key in ("loss", "loss_labeled", "loss_pl", "pl_frame_entropy", "pl_cer"):
        assert np.isfinite(stats[key]), key
    first, second = (state["teacher"]["model"] for state in states)
    if changes is JUMPY and first is None:
        assert second is None  # Backed off last to before the teacher's birth.
        return
    names = [key for key in first if "running_" not in key]
    assert names
    # Batch-norm statistics are each process's own, as ESPnet's DDP has them.
    assert same_tensors({k: first[k] for k in names}, {k: second[k] for k in names})
