"""The command `label` in this process, and the audio for it."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml

from espnet_softpl import filters
from espnet_softpl.bin import label
from espnet_softpl.commands import label as commands_label
from espnet_softpl.commands.experiment import open_experiment
from espnet_softpl.data.tables import read_scp
from tests.support.espnet_runs import (
    RATE,
)

read_text = functools.partial(read_scp, empty=True)


def label_in_process(exp: Path, scp: str | Path, out: Path, *more: object) -> dict:
    """Label in this process; return the summary."""
    words = [
        "--asr_exp",
        exp,
        "--wav_scp",
        scp,
        "--out",
        out,
        "--num_workers",
        0,
        *more,
    ]
    label.main([str(word) for word in words])
    return yaml.safe_load((out / "label.yaml").read_text())


def check_refusal(exp, scp, out, more, message, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        label_in_process(exp, scp, out, *more)
    assert end.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(message, error), error


def write_audio(root: Path, *lengths: int, rate: int = RATE) -> Path:
    """Write noise, and a wav.scp of it."""
    rng = np.random.default_rng(0)
    lines = []
    for index, length in enumerate(lengths):
        file = root / f"{index}.wav"
        soundfile.write(file, 0.1 * rng.standard_normal(length), rate)
        lines.append(f"utt{index} {file}\n")
    scp = root / "wav.scp"
    scp.write_text("".join(lines))
    return scp


@contextlib.contextmanager
def labeler_of(exp: Path, which: str) -> Iterator[commands_label.Labeler]:
    """Build the labeler of an experiment."""
    with open_experiment(exp, exp) as experiment:
        weights = experiment.weights(which)
        trusted = [("tokens", filters.build("tokens"))]
        yield commands_label.build_labeler(experiment, weights, trusted)
