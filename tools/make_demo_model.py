#!/usr/bin/env python3
"""Make the base model that `softpl demo` ships, from a training of the recipe.

    cd egs2/librispeech_softpl && ./run.sh --stage 1 --stop-stage 8
    python ../../tools/make_demo_model.py exp/mini/seed1/warmup

Weights are halved to 16 bits, which changes no transcript that the demo shows but makes
the file half as large. ESPnet loads them into 32 bits again.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch
import yaml

MODEL = Path(__file__).resolve().parents[1] / "espnet_softpl/bin/demo_model"
# Paths of the training, and what belongs to its machine.
LEFT_OUT = re.compile(
    r"config|output_dir|.*_(shape_file|name_and_type)|dist_.*|wandb.*"
)
# A demo trains for seconds, 50 mini-batches; Adam's first steps are small ones.
CHANGED = {
    "num_iters_per_epoch": 25,
    "max_epoch": 2,
    "scheduler_conf": {"warmup_steps": 25},
    "log_interval": None,
    "num_workers": 0,
}


def main() -> None:
    """Write config.yaml and the weights of the best average."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("experiment", type=Path, help="a finished training")
    source = parser.parse_args().experiment
    name = "valid.cer_ctc.ave.pth"
    state = torch.load(source / name, map_location="cpu", weights_only=True)
    half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    conf = yaml.safe_load((source / "config.yaml").read_text("utf-8"))
    kept = {k: v for k, v in conf.items() if not LEFT_OUT.fullmatch(k)} | CHANGED
    MODEL.mkdir(exist_ok=True)
    torch.save(half, MODEL / name)
    (MODEL / "config.yaml").write_text(yaml.safe_dump(kept, sort_keys=False), "utf-8")


if __name__ == "__main__":
    main()
