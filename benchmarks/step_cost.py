"""What the full-size models of LibriSpeech cost, built and trained by ESPnet code.

    python benchmarks/step_cost.py [--json FILE] [--models slimipl ...] [--seconds 12]

Each model of the recipe's conf/models is built as its PL configuration says, and makes
one step of each kind on noise: a labeled one (forward and backward), and the labeling
of as much audio (the teacher's forward pass, in eval mode). An unlabeled step is taken
as a labeled one on a transcript of usual length and the labeling before it, which a
cache asks for only now and then. Measured here, on the CPU:

    parameters, processor time of both steps (not elapsed time, so that other work on
    the machine matters little), floating-point operations of both (matrix products and
    convolutions; torch.utils.flop_counter), memory that a labeled forward pass takes.

A backward pass is counted as two forward passes: of a convolution with groups torch
counts the backward pass as if there were none.

Estimated from that, for the run that the configurations describe:

    GPU hours = operations of all mini-batches, each full / operations per second

where the operations per second are those that ESPnet's published training time of its
12-block Conformer on one V100 implies (`CALIBRATION`): the operations of that model are
measured here in the same way. Nothing was run on a GPU.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from common import (
    ROOT,
    command_line,
    describe_machine,
    format_table,
    measuring_parser,
    peak_bytes,
    read_config,
    write_json,
)
from torch.utils.flop_counter import FlopCounterMode

CONF = ROOT / "egs2/librispeech_softpl/conf/models"
RATE = 16000


class Entry(NamedTuple):
    """One model.

    Attributes:
        warmup: Its supervised configuration, below `CONF`.
        pl: Its pseudo-labeling configuration.
        vocab: Tokens, blank and specials included.
        tokens_per_second: Of transcripts: 13.4 characters a second in 467 utterances
            of LibriSpeech, and 4.2 characters to one of ESPnet's 5000 pieces
            (README.md of its librispeech_100).
    """

    warmup: str
    pl: str
    vocab: int
    tokens_per_second: float


ENTRIES = {
    "slimipl_ls100": Entry(
        "slimipl/ls100/train_warmup.yaml",
        "slimipl/ls100/train_pl_hard_ctc.yaml",
        31,
        13.4,
    ),
    "slimipl_ll10": Entry(
        "slimipl/ll10/train_warmup.yaml",
        "slimipl/ll10/train_pl_hard_ctc.yaml",
        31,
        13.4,
    ),
    "conformer_ctc": Entry(
        "conformer_ctc/train_warmup.yaml",
        "conformer_ctc/train_pl_hard_ctc.yaml",
        5000,
        3.2,
    ),
    "e_branchformer": Entry(
        "e_branchformer/train_warmup.yaml",
        "e_branchformer/train_pl_hard_ctc.yaml",
        5000,
        3.2,
    ),
}

# espnet/espnet, egs2/librispeech_100/asr1/README.md, "Conformer": 57072 s on one V100
# of 32 GB with fp16, 70 epochs of train-clean-100 (100.6 h) at speeds 0.9, 1.0, 1.1.
CALIBRATION = {
    "seconds": 57072.0,
    "audio_seconds": 70 * 100.6 * 3600 * (1 / 0.9 + 1.0 + 1 / 1.1),
    "encoder": "conformer_ctc/train_warmup.yaml",
    "rest": "e_branchformer/train_warmup.yaml",
    "blocks": 12,
}
OPTIMIZER_COPIES = {"adam": 2, "adagrad": 1}


def read(name: str) -> dict[str, Any]:
    """Read a configuration.

    Args:
        name: The file, below `CONF`.
    """
    return read_config(CONF / name)


def calibration_conf() -> dict[str, Any]:
    """Put together ESPnet's 12-block Conformer, which shares its parts with two others.

    Returns:
        A stock configuration.
    """
    conf = read(CALIBRATION["rest"])
    encoder = read(CALIBRATION["encoder"])
    conf["encoder"] = encoder["encoder"]
    blocks = {"num_blocks": CALIBRATION["blocks"]}
    conf["encoder_conf"] = {**encoder["encoder_conf"], **blocks}
    return conf


def parse(
    conf: dict[str, Any], tokens: Sequence[str], work: Path
) -> argparse.Namespace:
    """Read a configuration as a training does, by the parser of ESPnet's task.

    Args:
        conf: The configuration.
        tokens: The token list, blank and specials included.
        work: The output directory; it also gets the files that the parser wants.
    """
    from espnet_softpl.training.task import SoftPLTask

    (work / "tokens.txt").write_text("\n".join(tokens) + "\n")
    (work / "conf.yaml").write_text(yaml.safe_dump(conf))
    arguments = ["--config", str(work / "conf.yaml"), "--output_dir", str(work)]
    arguments += ["--token_list", str(work / "tokens.txt"), "--token_type", "char"]
    arguments += ["--normalize", "utterance_mvn", "--normalize_conf", "{}"]
    return SoftPLTask.get_parser().parse_args(arguments)


def build(conf: dict[str, Any], vocab: int, work: Path) -> torch.nn.Module:
    """Build a model as a training would, with ESPnet's task.

    Args:
        conf: The configuration.
        vocab: Tokens.
        work: A directory for the files that the parser wants.
    """
    from espnet_softpl.training.task import SoftPLTask

    tokens = ["<blank>", "<unk>", *(f"t{i}" for i in range(vocab - 3)), "<sos/eos>"]
    return SoftPLTask.build_model(parse(conf, tokens, work))


def make_steps(
    model: torch.nn.Module, batch: int, seconds: float, tokens: int, vocab: int
) -> dict[str, Callable[[], Any]]:
    """Make the two kinds of steps on one batch of noise.

    Args:
        model: The model.
        batch: Utterances.
        seconds: Length of each.
        tokens: Length of each transcript.
        vocab: Tokens of the model.

    Returns:
        `labeled`, which leaves gradients, `loss`, its forward pass, and `labeling`.
    """
    speech = 0.1 * torch.randn(batch, int(seconds * RATE))
    lengths = torch.full((batch,), speech.shape[1])
    text = torch.randint(2, vocab - 1, (batch, tokens))
    text_lengths = torch.full((batch,), tokens)

    def loss() -> torch.Tensor:
        model.train()
        return model(speech, lengths, text, text_lengths)[0]

    def labeled() -> None:
        model.zero_grad(set_to_none=True)
        loss().backward()

    def labeling() -> None:
        model.eval()
        with torch.no_grad():
            encoded, _ = model.encode(speech, lengths)
            model.ctc.argmax(encoded)

    return {"loss": loss, "labeled": labeled, "labeling": labeling}


def count_flops(steps: dict[str, Callable[[], Any]]) -> dict[str, int]:
    """Count the floating-point operations of both kinds of steps.

    Args:
        steps: See `make_steps`.
    """
    counts = {}
    for name, step, passes in (("labeled", "loss", 3), ("labeling", "labeling", 1)):
        with FlopCounterMode(display=False) as counter:
            steps[step]()
        counts[name] = passes * counter.get_total_flops()
    return counts


def processor_seconds(step: Callable[[], Any], repeats: int) -> float:
    """Time a step, after the counting of its operations has warmed it up.

    Args:
        step: What to run.
        repeats: How often.

    Returns:
        Processor time of all threads for one step, in seconds.
    """
    start = time.process_time()
    for _ in range(repeats):
        step()
    return (time.process_time() - start) / repeats


def without_layer_drop(conf: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration whose steps all run every layer.

    Dropped layers would make a single step cheaper by chance. The estimate is then an
    upper bound.

    Args:
        conf: The configuration.
    """
    encoder = {**conf["encoder_conf"], "layer_drop_rate": 0.0}
    schedule = {**conf.get("pl_schedule_conf", {}), "layer_drop": None}
    changed = {**conf, "pl_schedule_conf": schedule}
    if conf["encoder"] != "conformer":
        changed["encoder_conf"] = encoder
    return changed if "pl_criterion" in conf else {**conf, "encoder_conf": encoder}


def measure(entry: Entry, options: argparse.Namespace) -> dict[str, float]:
    """Measure one model on the CPU.

    Args:
        entry: The model.
        options: The command line.

    Returns:
        Figures by name; operations, processor seconds and bytes per second of audio.
    """
    with tempfile.TemporaryDirectory() as work:
        conf = without_layer_drop(read(entry.pl))
        model = build(conf, entry.vocab, Path(work))
        tokens = round(options.seconds * entry.tokens_per_second)
        steps = make_steps(model, options.batch, options.seconds, tokens, entry.vocab)
        audio = options.batch * options.seconds
        parameters = sum(p.numel() for p in model.parameters())
        figures: dict[str, float] = {"parameters": parameters}
        for name, flops in count_flops(steps).items():
            figures[f"{name}_flops"] = flops / audio
            taken = processor_seconds(steps[name], options.repeats)
            figures[f"{name}_cpu_s"] = taken / audio
        # What the forward pass leaves for the backward pass, which frees it as it
        # makes the gradients.
        figures["activation_bytes"] = (
            peak_bytes(steps["loss"], torch.device("cpu")) / audio
        )
    return figures


def sustained_flops(options: argparse.Namespace) -> float:
    """Work out the operations per second of ESPnet's published training.

    Args:
        options: The command line.

    Returns:
        Operations per second of one V100, data loading and validation included.
    """
    entry = ENTRIES["e_branchformer"]
    with tempfile.TemporaryDirectory() as work:
        model = build(calibration_conf(), entry.vocab, Path(work))
        tokens = round(options.seconds * entry.tokens_per_second)
        steps = make_steps(model, options.batch, options.seconds, tokens, entry.vocab)
        flops = count_flops(steps)["labeled"] / (options.batch * options.seconds)
    return flops * CALIBRATION["audio_seconds"] / CALIBRATION["seconds"]


def audio_of(conf: dict[str, Any]) -> float:
    """Return the seconds of audio of all mini-batches of a run, each of them full.

    Args:
        conf: Its configuration.
    """
    mini_batches = conf["num_iters_per_epoch"] * conf["max_epoch"]
    return mini_batches * conf["batch_bins"] / RATE


def estimate(
    entry: Entry, measured: dict[str, float], sustained: float
) -> dict[str, float]:
    """Estimate what the runs of a model cost, from its steps.

    Args:
        entry: The model.
        measured: See `measure`.
        sustained: Operations per second.

    Returns:
        GPU hours of warm-up and PL; gigabytes of GPU memory for what does not depend on
        the batch, and per 100 s of audio in float32; gigabytes of checkpoints of a run.
    """
    warmup, pl = read(entry.warmup), read(entry.pl)
    schedule, cache = pl["pl_schedule_conf"], pl.get("pl_cache_conf")
    steps = schedule["labeled_steps"] + schedule["unlabeled_steps"]
    unlabeled = schedule["unlabeled_steps"] / steps
    # A cache labels a share of the mini-batches.
    labeled_again = cache["probability"] if cache else 1.0
    per_second = measured["labeled_flops"]
    pl_second = per_second + unlabeled * labeled_again * measured["labeling_flops"]
    model_gb = 4 * measured["parameters"] / 1e9
    states = OPTIMIZER_COPIES[pl["optim"]]
    teacher = pl["pl_teacher"] == "ema"
    return {
        "warmup_gpu_hours": audio_of(warmup) * per_second / sustained / 3600,
        "pl_gpu_hours": audio_of(pl) * pl_second / sustained / 3600,
        # Weights, gradients, the optimizer's states, the teacher.
        "fixed_memory_gb": model_gb * (2 + states + teacher),
        "batch_memory_gb_per_100_s": 100 * measured["activation_bytes"] / 1e9,
        # The best epochs, the latest, their average, checkpoint.pth, two teachers.
        "checkpoints_gb": model_gb
        * (pl["keep_nbest_models"] + 2 + 1 + states + 2 * teacher),
    }


def row(name: str, figures: dict[str, float]) -> list[str]:
    """Lay out one model's line of the table.

    Args:
        name: The model.
        figures: All of its figures.
    """
    return [
        name,
        f"{figures['parameters'] / 1e6:.1f}",
        f"{figures['labeled_flops'] / 1e9:.1f}",
        f"{figures['labeling_flops'] / 1e9:.1f}",
        f"{figures['labeled_cpu_s']:.2f}",
        f"{figures['labeling_cpu_s']:.2f}",
        f"{figures['warmup_gpu_hours']:.0f}",
        f"{figures['pl_gpu_hours']:.0f}",
        f"{figures['fixed_memory_gb']:.1f}",
        f"{figures['batch_memory_gb_per_100_s']:.1f}",
        f"{figures['checkpoints_gb']:.1f}",
    ]


HEADER = ["model", "M params", "labeled, GF/s", "labeling, GF/s", "labeled, CPU s"]
HEADER += ["labeling, CPU s", "warm-up, V100 h", "PL, V100 h", "fixed GB"]
HEADER += ["GB per 100 s", "checkpoints GB"]
LEGEND = (
    "GF/s and CPU s: 1e9 operations, and processor seconds, per second of audio. "
    "V100 h: estimated, nothing was run on a GPU. GB per 100 s: of audio in a "
    "mini-batch of one GPU, float32; fp16 takes less."
)


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line.

    Args:
        argv: Arguments, or None for those of this process.
    """
    parser = measuring_parser(__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=ENTRIES, default=list(ENTRIES))
    parser.add_argument("--batch", type=int, default=2, help="utterances of a step")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each, above 1")
    parser.add_argument("--repeats", type=int, default=1, help="timed steps, from 1")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    if options.device != "cpu":
        parser.error("--device: the steps are measured on the CPU; use cpu")
    if options.batch < 1 or options.repeats < 1 or options.seconds <= 1:
        parser.error("--batch and --repeats start at 1, --seconds is above 1")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Args:
        argv: Arguments, or None for those of this process.

    Returns:
        0.
    """
    options = parse_arguments(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    sustained = sustained_flops(options)
    figures: dict[str, Any] = {
        "command": command_line("benchmarks/step_cost.py", argv),
        "batch": options.batch,
        "seconds": options.seconds,
        "repeats": options.repeats,
        **describe_machine(torch.device("cpu")),
        "assumed.flops_per_second": sustained,
    }
    print(", ".join(f"{name} {value}" for name, value in figures.items()))
    rows, measured = [], {}
    for name in options.models:
        # The two settings of slimIPL are one model.
        model = ENTRIES[name].pl.partition("/")[0]
        if model not in measured:
            measured[model] = measure(ENTRIES[name], options)
        found = dict(measured[model])
        found |= estimate(ENTRIES[name], found, sustained)
        rows.append(row(name, found))
        figures |= {f"{name}.{key}": value for key, value in found.items()}
    print(f"\n{format_table(HEADER, rows)}\n\n{LEGEND}")
    if options.json is not None:
        write_json(options.json, figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
