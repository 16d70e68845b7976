"""Trainings on the recipe's mini corpus, from its seed models, for benchmarks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import yaml

RECIPE = common.ROOT / "egs2" / "librispeech_softpl"


def prepare(recipe: Path, seeds: Sequence[int], jobs: int) -> None:
    """Run the recipe up to the seed models; it skips what is there."""
    command = ["./run.sh", "--stage", "1", "--stop-stage", "8"]
    command += ["--seeds", " ".join(map(str, seeds)), "--train_jobs", str(jobs)]
    subprocess.run(command, cwd=recipe, check=True)


def write_short_dev(recipe: Path, work: Path, count: int = 8) -> dict[str, Path]:
    """Write the first few dev utterances, for ESPnet's own validation.

    Args:
        recipe: The recipe's directory.
        work: Where to write.
        count: How many utterances.

    Returns:
        The files by name: `wav.scp`, `text` and `speech_shape`.
    """
    dev = recipe / "dump/mini/dev"
    sources = [dev / "wav.scp", dev / "text"]
    sources.append(recipe / "exp/mini/stats_char/valid/speech_shape")
    wanted = {
        line.split()[0] for line in (dev / "text").read_text().splitlines()[:count]
    }
    written = {}
    for source in sources:
        lines = [k for k in source.read_text().splitlines() if k.split()[0] in wanted]
        written[source.name] = work / f"dev.{source.name}"
        written[source.name].write_text("".join(f"{line}\n" for line in lines))
    return written


def seed_model(recipe: Path, seed: int) -> Path:
    """Name the recipe's seed model."""
    return recipe / f"exp/mini/seed{seed}/warmup/valid.cer_ctc.ave.pth"


def read_preset(path: Path, recipe: Path, work: Path) -> dict[str, Any]:
    """Read a preset of the recipe without its `pl_*` keys, and name the data.

    Args:
        path: The YAML file.
        recipe: The recipe's directory.
        work: Where the short dev set goes.

    Returns:
        The configuration of a supervised training.
    """
    conf = common.read_config(path)
    conf = {key: value for key, value in conf.items() if not key.startswith("pl_")}
    dump, stats = recipe / "dump/mini", recipe / "exp/mini/stats_char"
    conf["frontend_conf"]["fs"] = 16000
    dev = write_short_dev(recipe, work)
    conf.update(
        token_type="char",
        token_list=str(dump / "token_list/char/tokens.txt"),
        normalize="utterance_mvn",
        train_data_path_and_name_and_type=[
            [str(dump / "labeled/wav.scp"), "speech", "sound"],
            [str(dump / "labeled/text"), "text", "text"],
        ],
        valid_data_path_and_name_and_type=[
            [str(dev["wav.scp"]), "speech", "sound"],
            [str(dev["text"]), "text", "text"],
        ],
        train_shape_file=[
            str(stats / "train/speech_shape"),
            str(stats / "train/text_shape.char"),
        ],
        valid_shape_file=[str(dev["speech_shape"])],
    )
    return conf


def train(conf: Mapping[str, Any], exp: Path, recipe: Path) -> None:
    """Train in a process of its own; a run that was stopped goes on.

    Args:
        conf: The ESPnet configuration.
        exp: The experiment directory; it gets `train.yaml` and `train.log` too.
        recipe: The recipe's directory, to which paths in the data are relative.
    """
    (exp / "train.yaml").write_text(yaml.safe_dump(dict(conf), sort_keys=False))
    command = [sys.executable, "-m", "espnet_softpl.bin.train", "--resume", "true"]
    command += ["--config", str(exp / "train.yaml"), "--output_dir", str(exp)]
    path = [str(common.ROOT), os.environ.get("PYTHONPATH", "")]
    env = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=":".join(filter(None, path)))
    with open(exp / "train.log", "w") as log:
        subprocess.run(command, cwd=recipe, env=env, stdout=log, stderr=log, check=True)
