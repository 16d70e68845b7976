"""Experiments for the report without training: made-up curves, labels and decodings."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml

from espnet_softpl.monitors.guard import GUARDED, Guard

WORDS = "the quick brown fox jumps over a lazy dog and runs home".split()
RATE = 8000
BATCHES = 50  # In an epoch.
MINUTE = datetime.timedelta(minutes=1)
# Where each monitor begins and ends, in a run that is well.
MONITORS = dict(
    zip((each.name for each in GUARDED), np.linspace(0.3, 1.4, len(GUARDED)))
)


def garble(text: str, share: float, rng: np.random.Generator) -> str:
    """Replace about this share of the words by others."""
    words = [
        str(rng.choice(WORDS)) if rng.random() < share else w for w in text.split()
    ]
    return " ".join(words)


def write_data(root: Path, utterances: list[str], count: int = 60) -> dict[str, str]:
    """Write unlabeled audio with its truth, and references of `count` test utterances.

    Returns:
        The references, by utterance.
    """
    rng = np.random.default_rng(3)
    root.mkdir(parents=True)
    lines: dict[str, list[str]] = {"wav.scp": [], "oracle": [], "test": []}
    for index, key in enumerate(utterances):
        audio = 0.2 * np.sin(np.arange(RATE * (2 + index % 2)) * (0.1 + 0.03 * index))
        soundfile.write(root / f"{index}.wav", audio, RATE)
        lines["wav.scp"].append(f"{key} {root / f'{index}.wav'}")
        lines["oracle"].append(f"{key} {' '.join(rng.choice(WORDS, 6))}")
    truths = {f"test-{n:03d}": " ".join(rng.choice(WORDS, 8)) for n in range(count)}
    lines["test"] = [f"{key} {text}" for key, text in truths.items()]
    for name, each in lines.items():
        _write(root / name, each)
    return truths


def write_experiment(  # noqa: PLR0915
    exp: Path,
    data: Path,
    truths: dict[str, str],
    seed: int,
    *,
    epochs: int = 12,
    level: float = 0.25,
    base: Path | None = None,
    collapse: bool = False,
    **settings: Any,
) -> None:
    """Write what a training and a decoding leave behind.

    Args:
        exp: The experiment's directory.
        data: What `write_data` wrote.
        truths: What it returned.
        seed: The random seed; another one gives slightly other numbers.
        epochs: Finished ones.
        level: Error rate at the end.
        base: Its base model, by which it learns from pseudo-labels; else it is one.
        collapse: Whether the guard raises an alarm.
        settings: More of `config.yaml`.
    """
    rng = np.random.default_rng([seed, *exp.name.encode()])
    exp.mkdir(parents=True)
    config = {"token_list": ["A"], "max_epoch": epochs, "seed": seed, **settings}
    if base is not None:
        speech = [[str(data / "wav.scp"), "speech", "sound"]]
        config["init_param"] = [str(base / "valid.cer_ctc.ave.pth")]
        config["unlabeled_data_path_and_name_and_type"] = speech
        config["unlabeled_oracle_text"] = str(data / "oracle")
    (exp / "config.yaml").write_text(yaml.safe_dump(config))
    (exp / "valid.cer_ctc.ave.pth").touch()
    guard = Guard(reference_steps=5, window=5, patience=5)
    stats, samples = {}, []
    names = [line.split(" ", 1) for line in (data / "oracle").read_text().splitlines()]
    for epoch in range(1, epochs + 1):
        done = epoch / epochs
        error = rng.normal(1.0, 0.02) * (level + 0.2 * (1.0 - done) ** 2)
        error += collapse * 0.5 * max(0.0, done - 0.5)
        train = {"loss": 40 * error, "optim0_lr0": 1e-3 * (1 - 0.5 * done)}
        if base is not None:
            monitors = {
                name: float(value * rng.normal(1.0, 0.02) * (1 - 0.9 * done * collapse))
                for name, value in MONITORS.items()
            }
            train |= monitors | {"pl_cer": 0.9 * error, "pl_wer": 1.8 * error}
            train |= {"pl_kept": 0.8 + 0.1 * done, "pl_weight": 1.0}
            for step in range((epoch - 1) * BATCHES + 1, epoch * BATCHES + 1):
                guard.observe(step, monitors)
            samples += [_label(key, text, error, epoch, rng) for key, text in names]
        count = {"total_count": epoch * BATCHES, "time": MINUTE}
        valid = {"cer_ctc": error, "loss": 30 * error}
        stats[epoch] = {"train": train | count, "valid": valid | count}
    optimizer = {"state": {0: {"step": torch.tensor(float(epochs * BATCHES))}}}
    state = {"reporter": {"stats": stats}, "optimizers": [optimizer]}
    torch.save(state, exp / "checkpoint.pth")
    (exp / "train.log").write_text("# python\nThe training was finished at 1 epochs\n")
    if base is not None:
        (exp / "pl_state").mkdir()
        file = exp / "pl_state" / f"{epochs}epoch.rank0.pth"
        torch.save({"guard": guard.state_dict()}, file)
        _write(exp / "pl_samples" / f"{epochs}epoch.rank0.jsonl", samples)
    if collapse:
        report = exp / "pl_collapse" / f"step{epochs * BATCHES // 2}" / "report.txt"
        _write(report, ["Collapse guard: a made-up alarm", "This is an example."])
    test = [f"{key} {garble(text, 1.2 * level, rng)}" for key, text in truths.items()]
    _write(exp / "decode_ctc" / "test" / "text", test)


def _label(
    key: str, text: str, error: float, epoch: int, rng: np.random.Generator
) -> str:
    """Make a line of `pl_samples`."""
    step = epoch * BATCHES
    row = dict(step=step, made=step, utterance=key, weight=1.0, dropped_by="")
    row |= dict(label=garble(text, error, rng), student=garble(text, 1.5 * error, rng))
    row["confidence"] = round(float(np.clip(rng.normal(0.8, 0.1), 0.0, 1.0)), 4)
    return json.dumps(row)


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_grid(root: Path, seeds: int = 3, epochs: int = 12) -> list[str]:
    """Write three systems with several seeds each; return arguments of the report."""
    keys = [f"book-{n:02d}" for n in range(3)]
    truths = write_data(root / "data", keys)
    systems: dict[str, dict[str, Any]] = {
        "warmup": {"level": 0.3},
        "hard_ctc": {"level": 0.2, "pl_criterion": "hard_ctc", "pl_teacher": "ema"},
        "soft_ce": {"level": 0.24, "pl_criterion": "soft_ce", "pl_teacher": "student"},
    }
    places = []
    for name, settings in systems.items():
        for seed in range(1, seeds + 1):
            exp = root / f"seed{seed}" / name
            base = None if name == "warmup" else exp.with_name("warmup")
            more = {"base": base, "collapse": name == "soft_ce" and seed == 2}
            more |= {**settings, "epochs": epochs}
            write_experiment(exp, root / "data", truths, seed, **more)
            places.append(str(exp))
    return [*places, "--ref_text", f"test={root / 'data' / 'test'}"]
