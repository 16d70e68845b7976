"""Several processes on a CPU, through ESPnet's own distributed options."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests import ROOT, python_path
from tests.end_to_end.test_training import SLIMIPL
from tests.support import warm_python
from tests.support.espnet_runs import (
    HYBRID,
    PL,
    Data,
    config,
    load,
    load_snapshot,
    make_data,
    same_tensors,
)
from tests.training.resume.test_faults import FAULTS, nothing

SECONDS = 240.0


def bf16(*unused, **also_unused) -> torch.autocast:
    """A CPU's mixed precision, in the place of ESPnet's, which is that of GPUs."""
    return torch.autocast("cpu", dtype=torch.bfloat16)


def train_rank(
    path: str, out: str, rank: int, world: int, log: str, faults: str
) -> None:
    """Train as one of several processes, in a child; a function makes the faults."""
    torch.set_num_threads(1)
    from espnet2.train import trainer

    from espnet_softpl.training.task import SoftPLTask

    if faults:
        FAULTS[:] = globals()[faults](rank)
    if faults == "spoil_one":
        trainer.autocast = bf16
    command = ["--config", path, "--output_dir", out, "--ngpu", "0"]
    if world > 1:
        command += ["--dist_backend", "gloo", "--dist_world_size", str(world)]
        command += ["--dist_init_method", f"file://{out}.{log[-6:]}.rendezvous"]
        command += ["--dist_rank", str(rank)]
    SoftPLTask.main(cmd=[*command, "--resume", "true"])


def start(*words: str | int) -> subprocess.Popen:
    """Start one of the processes with the arguments of `train_rank`."""
    with open(str(words[4]), "a") as log:
        process = subprocess.Popen(
            [warm_python.executable(), "-"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": python_path()},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
        )
    with process.stdin as script:
        script.write(f"from {__name__} import train_rank\ntrain_rank(*{words!r})\n")
    return process


def run(
    options: dict, out: Path, world: int = 2, faults: Callable | None = None
) -> list[int]:
    """Train with some processes; return their exit statuses.

    A process that does not end (a deadlock) is killed, and fails the test.
    """
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(options, sort_keys=False))
    turn = len(list(out.parent.glob(f"{out.name}.rank0.*")))
    processes = [
        start(
            str(path),
            str(out),
            rank,
            world,
            f"{out}.rank{rank}.{turn:05d}x",
            faults.__name__ if faults else "",
        )
        for rank in range(world)
    ]
    end = time.monotonic() + SECONDS
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(end - time.monotonic(), 0.0))
    hanging = [process.poll() is None for process in processes]
    for process in processes:
        process.kill()
        process.wait()
    assert not any(hanging), f"{hanging}\n{read_log(out)}"
    return [process.returncode for process in processes]


def read_log(out: Path) -> str:
    logs = sorted(out.parent.glob(f"{out.name}.rank*x"))
    return "\n".join(f"{log}:\n{log.read_text()[-2000:]}" for log in logs)


def run_well(options: dict, out: Path, world: int = 2, **more) -> Path:
    """Train to the end."""
    assert run(options, out, world, **more) == [0] * world, read_log(out)
    return out


def states(out: Path, epoch: int, world: int = 2) -> list[dict]:
    return [load_snapshot(out, epoch, rank) for rank in range(world)]


@pytest.fixture
def data(tmp_path) -> Data:
    return make_data(tmp_path / "data")


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
def test_two_processes(data, tmp_path, criterion, changes) -> None:
    """Unlabeled steps end on both ranks, with one teacher and sound statistics."""
    options = config(**data.options(), **PL, **changes)
    options.update(pl_criterion=criterion)
    out = run_well(options, tmp_path / "exp")
    both = states(out, 2)
    # Both processes decide the same, from the same averages.
    assert repr(both[0]["guard"]) == repr(both[1]["guard"])
    assert (both[0]["guard"]["back_offs"] > 0) == (changes is JUMPY)
    if changes is JUMPY:
        assert same_tensors(both[0]["head"], both[1]["head"])
    stats = load(out / "checkpoint.pth")["reporter"]["stats"][2]["train"]
    for key in ("loss", "loss_labeled", "loss_pl", "pl_frame_entropy", "pl_cer"):
        assert np.isfinite(stats[key]), key
    first, second = (state["teacher"]["model"] for state in both)
    if changes is JUMPY and first is None:
        assert second is None  # Backed off last to before the teacher's birth.
        return
    names = [key for key in first if "running_" not in key]
    assert names
    # Batch-norm statistics are each process's own, as ESPnet's DDP has them.
    assert same_tensors({k: first[k] for k in names}, {k: second[k] for k in names})


def same_states(one: Path, other: Path, epochs: int) -> None:
    """Assert that two runs of two processes left the same, bit for bit."""
    mine, theirs = (load(exp / "checkpoint.pth") for exp in (one, other))
    assert same_tensors(mine["model"], theirs["model"])
    for pair in zip(states(one, epochs), states(other, epochs)):
        assert repr(pair[0]) == repr(pair[1])
    for epoch in range(1, epochs + 1):
        stats = [s["reporter"]["stats"][epoch]["train"] for s in (mine, theirs)]
        for key in stats[0]:
            if "time" not in key:
                np.testing.assert_array_equal(*(s[key] for s in stats), err_msg=key)


LABEL_CHANGE = dict(
    pl_cache="label_change",
    pl_cache_conf={"size": 2, "lag": 1},
)


def faulty(data: Data, **changes) -> dict:
    options = config(**{**data.options(), **PL, "max_epoch": 2, **changes})
    options.update(
        pl_criterion="tests.training.resume.test_faults:Faulty", num_iters_per_epoch=10
    )
    options["pl_filter_conf"] = {"min_tokens": 0}
    return options


def kill_one(rank: int) -> list:
    """Kill the second process a few unlabeled steps on."""

    def die(losses):
        os.kill(os.getpid(), signal.SIGKILL)

    return [nothing] * 3 + [die] if rank == 1 else []


def stop_one(rank: int) -> list:
    """Tell the first process alone to stop, in the first epoch."""

    def stop(losses):
        signal.raise_signal(signal.SIGTERM)
        return losses

    return [nothing, stop] if rank == 0 else []


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [dict(pl_teacher="ema"), SLIMIPL, LABEL_CHANGE],
    ids=["ema", "slimipl", "label_change"],
)
def test_killed_or_told_to_stop_two_processes_resume_exactly(
    data, tmp_path, changes
) -> None:
    options = faulty(data, **changes)
    whole = run_well(options, tmp_path / "whole")
    exp = tmp_path / "exp"
    assert run(options, exp, faults=stop_one) == [143, 143], read_log(exp)
    saved = sorted(path.name for path in (exp / "pl_state").glob("*batches*"))
    assert len(saved) == 2 and saved[0].replace("rank0", "rank1") == saved[1]
    first, second = run(options, exp, faults=kill_one)
    assert second == -signal.SIGKILL and first not in (0, None), read_log(exp)
    run_well(options, exp)
    same_states(whole, exp, epochs=2)


@pytest.mark.slow
def test_each_process_has_its_part_of_the_cache(data, tmp_path) -> None:
    options = faulty(
        data, **{**SLIMIPL, "pl_cache_conf": {"size": 2, "memory_limit_mb": 0}}
    )
    out = run_well(options, tmp_path / "exp")
    both = states(out, 2)
    caches = [state["cache"] for state in both]
    assert caches[0]["counts"] == caches[1]["counts"]
    assert torch.equal(caches[0]["inserted_at"], caches[1]["inserted_at"])
    ids = [
        {key for label in state["labels"].values() for key in label["utterance_ids"]}
        for state in both
    ]
    assert ids[0] and ids[1] and not ids[0] & ids[1]


@pytest.mark.slow
def test_another_number_of_processes_is_refused(data, tmp_path) -> None:
    options = faulty(data)
    out = run_well({**options, "max_epoch": 1}, tmp_path / "exp")
    assert run(options, out, world=1) == [2]
    assert "has world_size 2, this run needs 1" in read_log(out)


def spoil_one(rank: int) -> list:
    """Make one process's loss infinite once, and its gradient another time."""

    def infinite(losses):
        return losses / torch.zeros_like(losses)

    def overflow(losses):
        losses.register_hook(lambda gradient: gradient * torch.inf)
        return losses

    return [infinite, overflow] if rank == 1 else []


@pytest.mark.slow
def test_updates_that_are_skipped_do_not_part_the_processes(data, tmp_path) -> None:
    """Accumulation, mixed precision (bf16), and a process whose gradient overflows."""
    options = faulty(data, accum_grad=2)
    out = run_well(options, tmp_path / "exp", faults=spoil_one)
    both = states(out, 2)
    assert both[0]["teacher"]["updates"] == both[1]["teacher"]["updates"] > 0
    names = [k for k in both[0]["teacher"]["model"] if "running_" not in k]
    pair = [{k: s["teacher"]["model"][k] for k in names} for s in both]
    assert same_tensors(*pair)
    assert all(weights.isfinite().all() for weights in pair[0].values())


# No part of this model depends on the company of an utterance in its mini-batch.
ALONE = dict(
    encoder="transformer",
    encoder_conf=dict(
        output_size=16,
        attention_heads=2,
        linear_units=16,
        num_blocks=1,
        dropout_rate=0.0,
        positional_dropout_rate=0.0,
        attention_dropout_rate=0.0,
    ),
    specaug=None,
    specaug_conf=None,
    optim="sgd",
    optim_conf=dict(lr=0.05),
)


@pytest.mark.slow
@pytest.mark.parametrize("cached", [{}, SLIMIPL], ids=["ema", "slimipl"])
def test_two_processes_are_one_with_the_whole_batch(tmp_path, cached) -> None:
    """ESPnet splits a mini-batch among the processes and averages the gradients."""
    # Of one length: ESPnet's encoders may count a frame more in a padded batch.
    data = make_data(tmp_path / "even", length=5)
    options = {**faulty(data, **cached), **ALONE}
    options = {key: value for key, value in options.items() if value is not None}
    two = run_well(options, tmp_path / "two")
    one = run_well(options, tmp_path / "one", world=1)
    pairs = [load(exp / "latest.pth") for exp in (one, two)]
    start = load_start(options, tmp_path)
    moved = 0.0
    for key, value in pairs[0].items():
        torch.testing.assert_close(value, pairs[1][key], rtol=1e-4, atol=1e-6)
        moved += float((value - start[key]).norm()) if value.is_floating_point() else 0
    assert moved > 0.1
    stats = [
        load(e / "checkpoint.pth")["reporter"]["stats"][2]["train"] for e in (one, two)
    ]
    for key in ("loss", "loss_pl", "loss_labeled", "pl_kept"):
        assert stats[0][key] == pytest.approx(stats[1][key], rel=1e-4), key


def load_start(options: dict, tmp_path: Path) -> dict[str, torch.Tensor]:
    """Return the weights that both begin with."""
    frozen = {**options, "optim_conf": dict(lr=0.0), "max_epoch": 1}
    return load(run_well(frozen, tmp_path / "still", world=1) / "latest.pth")
