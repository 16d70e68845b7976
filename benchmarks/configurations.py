"""What other configurations of the recipe's small model cost, in stock steps.

    python benchmarks/configurations.py --rounds 12

prints a row for each: the median of its processor time over that of the shipped one in
the same round, and quartiles. It says nothing of errors: train before you change one.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from steps import Run, configure, make_batch

SHIPPED = "shipped: conv2d, 40 mel bins"
# What differs, by the key of the configuration.
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    SHIPPED: {},
    "24 mel bins": {"frontend_conf": {"n_mels": 24}},
    "conv2d6": {"encoder_conf": {"input_layer": "conv2d6"}},
    "kernels of 7 frames": {"encoder_conf": {"cnn_module_kernel": 7}},
    # The shipped one, in another format of its weights and of its products.
    "channels_last": {},
    "bfloat16": {},
}


def make_steps(
    size: int, seconds: float, small: bool, work: Path
) -> Mapping[str, Callable[[], float]]:
    """Build the trainings; return a step of each, which measures itself.

    Args:
        size: Utterances of the mini-batch.
        seconds: Of each.
        small: Make the encoders tiny.
        work: A directory for all of them.
    """
    device, runs = torch.device("cpu"), {}
    for number, (name, change) in enumerate(CHANGES.items()):
        conf = configure("train_control.yaml", small)
        for key, values in change.items():
            conf[key] = {**conf[key], **values}
        torch.manual_seed(1)
        runs[name] = Run(conf, work / str(number), device)
    runs["channels_last"].model.to(memory_format=torch.channels_last)
    batch = make_batch(runs[SHIPPED].model, size, seconds, seed=1)

    def step_of(name: str, run: Run) -> Callable[[], float]:
        def step() -> float:
            with torch.autocast("cpu", torch.bfloat16, enabled=name == "bfloat16"):
                return run.step(batch.ids, batch.labeled())

        return step

    return {name: step_of(name, run) for name, run in runs.items()}


def compare(steps: Mapping[str, Callable[[], float]], rounds: int) -> str:
    """Time the steps in turn; return a table of their shares of the shipped one."""
    times = common.take_turns(steps, rounds)
    shipped = np.array(times[SHIPPED])
    rows = []
    for name, taken in times.items():
        low, middle, high = np.percentile(np.array(taken) / shipped, [25, 50, 75])
        rows.append([name, f"{middle:.2f}", f"{low:.2f} to {high:.2f}"])
    return common.format_table(["configuration", "step / shipped", "quartiles"], rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=12, help="at least 1")
    parser.add_argument("--size", type=int, default=6, help="utterances of a batch")
    parser.add_argument("--seconds", type=float, default=3.1, help="of each")
    parser.add_argument("--small", action="store_true", help="tiny encoders")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        steps = make_steps(args.size, args.seconds, args.small, Path(work))
        print(compare(steps, args.rounds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
