"""What a large unlabeled set costs before the first update: seconds and memory.

Writes tables of many utterances, and starts what a training starts on them (checks,
usable lengths and model, mini-batches and data set, the first forty mini-batches) in a
process of its own. What a thousand utterances cost is taken off. The paths are all
different, and lead to a few files. Loader processes are not counted.

    python benchmarks/startup.py --utterances 1000000 --json startup.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import common
import numpy as np
import soundfile
import yaml

FEW = 1000
FOLDERS = 200
PARTS = ("checks", "model", "batches", "first")


def write_tables(work: Path, utterances: int) -> None:
    """Write `wav.scp` and `shape` of an unlabeled set, and a small labeled one."""
    rng = np.random.default_rng(1)
    for name in range(FOLDERS):
        (work / f"{name:03}").mkdir(exist_ok=True)
    for name, length in enumerate(clips := (20000, 30000, 40000, 50000)):
        audio = 0.1 * rng.standard_normal(length)
        soundfile.write(work / f"{name}.flac", audio, 16000)
    chooser = random.Random(1)
    with (work / "wav.scp").open("w") as scp, (work / "shape").open("w") as shape:
        for number in range(utterances):
            clip = chooser.randrange(len(clips))
            a, b, c = (chooser.randrange(FOLDERS) for _ in range(3))
            key = f"{number // 700:05}-{chooser.randrange(10**6):06}-{number:08}"
            scp.write(f"{key} {work}/{a:03}/../{b:03}/../{c:03}/../{clip}.flac\n")
            shape.write(f"{key} {clips[clip] + chooser.randrange(-999, 999)}\n")
    labeled = [f"labeled{number}" for number in range(8)]
    for name, value in (
        ("labeled.scp", f"{work}/0.flac"),
        ("text", "A B A"),
        ("speech_shape", "20000"),
        ("text_shape", "5,5"),
    ):
        (work / name).write_text("".join(f"{key} {value}\n" for key in labeled))
    dev = (work / "labeled.scp").read_text().replace("0.flac", "1.flac")
    (work / "dev.scp").write_text(dev)
    (work / "tokens").write_text("<blank>\n<unk>\n<space>\nA\nB\n")
    conf = {
        "token_type": "char",
        "token_list": str(work / "tokens"),
        "frontend_conf": {"n_fft": 256, "hop_length": 128, "n_mels": 20},
        "normalize": "utterance_mvn",
        "encoder": "transformer",
        "encoder_conf": {"output_size": 16, "attention_heads": 2, "num_blocks": 1},
        "model_conf": {"ctc_weight": 1.0},
        "batch_type": "numel",
        "batch_bins": 1_600_000,
        "num_iters_per_epoch": 40,
        "num_workers": 2,
        "pl_criterion": "hard_ctc",
        "pl_schedule_conf": {"form": "interleaved"},
        "unlabeled_data_path_and_name_and_type": [
            [f"{work}/wav.scp", "speech", "sound"]
        ],
        "unlabeled_shape_file": [f"{work}/shape"],
    }
    for part, scp in (("train", "labeled.scp"), ("valid", "dev.scp")):
        conf[f"{part}_data_path_and_name_and_type"] = [
            [f"{work}/{scp}", "speech", "sound"],
            [f"{work}/text", "text", "text"],
        ]
        shapes = [f"{work}/speech_shape", f"{work}/text_shape"]
        conf[f"{part}_shape_file"] = shapes
    (work / "train.yaml").write_text(yaml.safe_dump(conf))


def peak_kb() -> int:
    """Return the peak memory of this process: `ru_maxrss` has its parent's in it."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def start(work: Path) -> dict[str, float]:
    """Start a training; return seconds and MB (rise of the peak) of each part."""
    from espnet2.train.distributed_utils import DistributedOption

    from espnet_softpl.training.task import SoftPLTask

    command = ["--config", f"{work}/train.yaml", "--output_dir", f"{work}/exp"]
    args = SoftPLTask.get_parser().parse_args(command)
    figures: dict[str, float] = {}

    def checks() -> None:
        SoftPLTask.check_required_command_args(args)

    def model() -> None:
        SoftPLTask.build_model(args)

    def batches() -> None:
        option = DistributedOption(distributed=False)
        made.append(SoftPLTask.build_iter_factory(args, option, "train"))

    def first() -> None:
        for _ in itertools.islice(made[0].build_iter(1), 40):
            pass

    made: list = []
    for name, part in zip(PARTS, (checks, model, batches, first)):
        begin = time.process_time()
        part()
        figures[f"{name}_s"] = time.process_time() - begin
        figures[f"{name}_mb"] = peak_kb() * 1024 / 1e6
    return figures


def measure(utterances: int) -> dict[str, float]:
    """Start a training on that many utterances in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_tables(work, utterances)
        command = [sys.executable, __file__, "--start", name]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return json.loads(done.stdout.splitlines()[-1])


def per_million(utterances: int) -> dict[str, float]:
    """Measure what that many utterances cost beyond a few, for each million of them.

    Returns:
        Seconds (`_s`) and megabytes so far (`_mb`) of each part; all, as `startup_s`
        and `memory_mb`.
    """
    few, many = measure(FEW), measure(utterances)
    figures = {key: (many[key] - few[key]) / (utterances / 1e6) for key in many}
    figures["startup_s"] = sum(figures[f"{part}_s"] for part in PARTS)
    figures["memory_mb"] = figures["first_mb"]
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark with the command line's words, those of the process if None."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--utterances", type=int, default=10**6, help="[%(default)s]")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.start:
        print(json.dumps(start(options.start)))
        return
    figures = per_million(options.utterances)
    rows = [
        [name, f"{figures[f'{name}_s']:.2f}", f"{figures[f'{name}_mb']:.0f}"]
        for name in PARTS
    ]
    rows.append(["all", f"{figures['startup_s']:.2f}", f"{figures['memory_mb']:.0f}"])
    header = ["part", "s per million", "peak MB per million, so far"]
    print(common.format_table(header, rows))
    if options.json:
        figures |= common.describe_machine(common.torch.device("cpu"))
        figures["command"] = common.command_line("benchmarks/startup.py", argv)
        common.write_json(options.json, figures)


if __name__ == "__main__":
    main()
