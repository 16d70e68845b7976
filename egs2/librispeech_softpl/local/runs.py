"""What a training directory tells about its run."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from espnet_softpl.commands.report.history import read_history, seconds_of
from espnet_softpl.training.resume.layout import load_checkpoint

SUPERVISED = ("warmup", "control")


@dataclass
class Run:
    """One training run and the scores of its model.

    Attributes:
        system: Name of the directory, such as `control` or `hard_ctc`.
        seed: Seed of the training.
        criterion: `supervised`, or the pseudo-label criterion.
        teacher: Who labels, or an empty string.
        updates: Optimizer steps, 0 where the run was not done.
        seconds: Training and validation time.
        history: Values by epoch, by statistic (`train/pl_cer`); each value is a
            pair of the mini-batches trained on so far and the epoch's mean.
        command: The training command, or an empty string.
        scores: Score by unit, by set; empty where the system was not decoded.
    """

    system: str
    seed: str
    criterion: str = "supervised"
    teacher: str = ""
    updates: int = 0
    seconds: float = 0.0
    history: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    command: str = ""
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)

    def first_and_last(self, statistic: str) -> tuple[float, float] | None:
        """Return a statistic in its first and its last epoch, or None.

        Args:
            statistic: Key of `history`.
        """
        values = self.history.get(statistic)
        return (values[0][1], values[-1][1]) if values else None


def count_updates(optimizer: dict[str, Any]) -> int:
    """Return how many steps an optimizer has made, from its state.

    Args:
        optimizer: State dictionary; one whose state counts no steps gives 0.
    """
    steps = [state.get("step", 0) for state in optimizer["state"].values()]
    return int(max(steps, default=0))


def read_command(directory: Path) -> str:
    """Return the training command from the head of the last log, with plain `python`.

    Args:
        directory: Training directory.
    """
    log = directory / "train.log"
    if not log.is_file():
        return ""
    with log.open(encoding="utf-8", errors="replace") as stream:
        match = re.match(r"# (.*)", stream.readline())
    return re.sub(r"^\S+", "python", match[1].strip()) if match else ""


def read_run(directory: Path, seed: str) -> Run:
    """Read a training directory.

    Args:
        directory: Where ESPnet trained; it may not exist, which gives an empty run.
        seed: Seed of the training.
    """
    run = Run(directory.name, seed)
    checkpoint, config = directory / "checkpoint.pth", directory / "config.yaml"
    if not (checkpoint.is_file() and config.is_file()):
        return run
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    if run.system not in SUPERVISED:
        run.criterion = str(settings.get("pl_criterion", run.system))
        run.teacher = str(settings.get("pl_teacher", ""))
    state = load_checkpoint(checkpoint)
    stats = state["reporter"]["stats"]
    run.history = read_history(stats)
    run.updates = count_updates(state["optimizers"][0])
    run.seconds = seconds_of(stats)
    run.command = read_command(directory)
    return run
