"""Which labels collapse: every criterion and regularizer in one hostile setting.

The paper (https://arxiv.org/abs/2211.06007) reports that continuous pseudo-labeling
with soft labels can end in one degenerate distribution at every frame, and that hard
labels do not. This benchmark provokes it at desk scale: from the recipe's seed model on
the mini corpus, one labeled mini-batch to three unlabeled ones, with a teacher that
follows the student fast; and it lets every kind of label go through the same steps. The
dev set is decoded greedily (the student, not the teacher) every few steps, and the
guard watches.

    python benchmarks/collapse.py --json collapse.json      # all methods, three seeds
    python benchmarks/collapse.py --only soft_ce hard_ctc   # some of them
    python benchmarks/collapse.py --border                  # where plain soft collapses

Finished runs are kept in --work and not repeated. The corpus and the seed models come
from stages 1 to 8 of the recipe, which are run first where they are missing.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import json
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
import soundfile
import torch
from mini import RECIPE, prepare, read_preset, seed_model, train

from espnet_softpl.ctc import greedy
from espnet_softpl.monitors.diagnosis import explain
from espnet_softpl.monitors.guard import MONITORS, Guard
from espnet_softpl.monitors.oracle import error_rates

EPOCH_STEPS = 20  # Steps between two decodings of the dev set.
ONE_AT_A_TIME = threading.Lock()

# The recipe's own setting but for the teacher, whose decay is 0.99 there, for a slower
# start, and for the filter: without it hard labels, too, end in blanks on one seed.
# Found with the dev errors of soft_ce and hard_ctc in sight; docs/dev/settings.md says
# what else was tried.
SETTING: dict[str, Any] = {
    "pl_teacher": "ema",
    "pl_teacher_conf": {"decay": 0.5},
    "pl_schedule_conf": {
        "form": "interleaved",
        "labeled_steps": 1,
        "unlabeled_steps": 3,
    },
    "pl_filter_conf": {"min_tokens": 14},  # Half of the median transcript.
    "pl_guard": "warn",
    "optim_conf": {"lr": 0.001, "weight_decay": 0.01},
    "scheduler_conf": {"warmup_steps": 400},
    "max_epoch": 10,
}

SOFT = {"pl_criterion": "soft_ce"}


def _blend(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"pl_criterion": "blend", "pl_criterion_conf": {"parts": list(parts)}}


METHODS: dict[str, dict[str, Any]] = {
    "hard_ctc": {"pl_criterion": "hard_ctc"},
    "best_path_ce": {"pl_criterion": "best_path_ce"},
    "viterbi_ce": {"pl_criterion": "viterbi_ce"},
    "sampled_path_ce": {"pl_criterion": "sampled_path_ce"},
    "sampled_ctc": {
        "pl_criterion": "sampled_ctc",
        "pl_criterion_conf": {"num_samples": 3},
    },
    "sampled_ctc, temperature 0.5": {
        "pl_criterion": "sampled_ctc",
        "pl_criterion_conf": {"num_samples": 3, "temperature": 0.5},
    },
    "soft_ce": SOFT,
    "soft_ce, temperature 0.5": {**SOFT, "pl_criterion_conf": {"temperature": 0.5}},
    "soft_ce, blank symmetric": {**SOFT, "pl_criterion_conf": {"blank": "symmetric"}},
    "occupancy_ce": {"pl_criterion": "occupancy_ce"},
    "nbest_ctc": {"pl_criterion": "nbest_ctc"},
    "soft_ctc": {"pl_criterion": "soft_ctc"},
    "blend": {"pl_criterion": "blend"},
    "consistency": {"pl_criterion": "consistency"},
    "hard_ctc + consistency": _blend(
        {"criterion": "hard_ctc"}, {"criterion": "consistency", "weight": 0.2}
    ),
    "hard_ctc + masked_kl": _blend(
        {"criterion": "hard_ctc"}, {"criterion": "masked_kl", "weight": 0.2}
    ),
    "soft_ctc + votes": {
        "pl_criterion": "soft_ctc",
        "pl_criterion_conf": {"nbest": 5},
        "pl_shaping": ["votes"],
    },
    "soft_ce + mean_entropy": {
        **SOFT,
        "pl_regularizer": ["mean_entropy"],
        "pl_regularizer_conf": {"weight": 0.3},
    },
    "soft_ce + frame_confidence": {**SOFT, "pl_shaping": ["frame_confidence"]},
    "soft_ce + token_confidence": {**SOFT, "pl_shaping": ["token_confidence"]},
    "soft_ce + utterance_confidence": {**SOFT, "pl_shaping": ["utterance_confidence"]},
    "soft_ce + blank": {
        **SOFT,
        "pl_shaping": ["blank"],
        "pl_shaping_conf": {"bias": 0.5},
    },
    "soft_ce + separate head": {**SOFT, "pl_separate_head": True},
    "soft_ce + prior_kl": {
        **SOFT,
        "pl_regularizer": ["prior_kl"],
        "pl_regularizer_conf": {"weight": 1.0},
    },
    "soft_ce + align": {**SOFT, "pl_shaping": ["align"]},
}


def _border() -> dict[str, dict[str, Any]]:
    """Vary one thing at a time, for soft and for hard labels."""
    changes: dict[str, dict[str, Any]] = {
        f"decay {decay:g}": {"pl_teacher_conf": {"decay": decay}}
        for decay in (0.0, 0.8, 0.9, 0.99)
    }
    for name, (labeled, unlabeled) in {"0:1": (0, 1), "1:1": (1, 1)}.items():
        schedule = {
            "form": "interleaved",
            "labeled_steps": labeled,
            "unlabeled_steps": unlabeled,
        }
        changes[f"labeled to unlabeled {name}"] = {"pl_schedule_conf": schedule}
    changes["unlabeled weight 0.3"] = {
        "pl_schedule_conf": {
            "form": "interleaved",
            "labeled_steps": 1,
            "unlabeled_steps": 3,
            "weight": 0.3,
        }
    }
    changes["no augmentation"] = {"specaug": None}
    changes["seed of 300 steps"] = {"seed_steps": 300}
    changes["no filter but of empty transcripts"] = {"pl_filter_conf": {}}
    changes["frozen teacher"] = {"pl_teacher": "frozen", "pl_teacher_conf": {}}
    found = {
        f"{criterion}, {name}": {"pl_criterion": criterion, **change}
        for name, change in changes.items()
        for criterion in ("soft_ce", "hard_ctc")
    }
    warm = {"pl_criterion_conf": {"temperature": 2.0}}
    return {**found, "soft_ce, temperature 2": {"pl_criterion": "soft_ce", **warm}}


def configure(
    method: Mapping[str, Any], seed: int, recipe: Path, work: Path
) -> dict[str, Any]:
    """Make the ESPnet configuration of one run.

    Args:
        method: What differs from `SETTING`.
        seed: The run's seed; its seed model was trained with it too.
        recipe: The recipe's directory.
        work: The run's directory.

    Returns:
        The configuration.
    """
    conf = read_preset(recipe / "conf/tuning/train_pl_hard_ctc.yaml", recipe, work)
    dump = recipe / "dump/mini"
    conf.update(
        unlabeled_data_path_and_name_and_type=[
            [str(dump / "unlabeled/wav.scp"), "speech", "sound"]
        ],
        unlabeled_oracle_text=str(dump / "unlabeled/text.oracle"),
        num_iters_per_epoch=EPOCH_STEPS,
        keep_nbest_models=999,
        num_workers=0,  # Epochs this short would be spent on starting processes.
        seed=seed,
    )
    conf.update(SETTING)
    conf.update(method)
    conf.setdefault("init_param", [str(seed_model(recipe, seed))])
    return {key: value for key, value in conf.items() if value is not None}


def weak_seed(steps: int, seed: int, options: argparse.Namespace) -> Path:
    """Train a seed model for fewer steps than the recipe does.

    Args:
        steps: Labeled steps, a multiple of 50.
        seed: The seed.
        options: The command line's.

    Returns:
        Its last checkpoint.
    """
    exp = options.work / f"seed_of_{steps}" / f"seed{seed}"
    if not (exp / "latest.pth").exists():
        exp.mkdir(parents=True, exist_ok=True)
        preset = options.recipe / "conf/train_warmup.yaml"
        conf = read_preset(preset, options.recipe, exp)
        conf.update(max_epoch=steps // conf["num_iters_per_epoch"], seed=seed)
        train(conf, exp, options.recipe)
    return exp / "latest.pth"


def read_dev(recipe: Path) -> tuple[list[str], list[torch.Tensor]]:
    """Read the dev set: transcripts and waveforms, shortest first."""
    dev = recipe / "dump/mini/dev"
    texts = dict(line.split(maxsplit=1) for line in open(dev / "text"))
    audio = {}
    for line in open(dev / "wav.scp"):
        key, path = line.split()
        wav, _ = soundfile.read(recipe / path, dtype="float32")
        audio[key] = torch.from_numpy(wav)
    keys = sorted(audio, key=lambda key: (len(audio[key]), key))
    return [texts[key].strip() for key in keys], [audio[key] for key in keys]


@torch.no_grad()
def transcribe(
    model: torch.nn.Module, tokens: Sequence[str], waves: Sequence[torch.Tensor]
) -> list[str]:
    """Decode waveforms greedily with a stock ESPnet model."""
    texts = []
    for first in range(0, len(waves), 8):
        batch = waves[first : first + 8]
        lengths = torch.tensor([len(wave) for wave in batch])
        padded = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True)
        encoded, frames = model.encode(padded, lengths)
        found, counts = greedy(model.ctc.log_softmax(encoded), frames)
        for row, count in zip(found.tolist(), counts.tolist()):
            text = "".join(tokens[index] for index in row[:count])
            texts.append(" ".join(text.replace("<space>", " ").split()))
    return texts


def decode_all(exp: Path, init: Path, recipe: Path) -> dict[str, list[float]]:
    """Decode the dev set with the seed model and with every epoch's student.

    Returns:
        `step`, `wer` and `cer` (as fractions), one value per checkpoint.
    """
    from espnet2.tasks.asr import ASRTask

    model, args = ASRTask.build_model_from_file(exp / "config.yaml", None, "cpu")
    references, waves = read_dev(recipe)
    epochs = sorted(int(path.stem[:-5]) for path in exp.glob("*epoch.pth"))
    curve: dict[str, list[float]] = {"step": [], "wer": [], "cer": []}
    for epoch in (0, *epochs):
        weights = init if epoch == 0 else exp / f"{epoch}epoch.pth"
        model.load_state_dict(torch.load(weights, weights_only=True))
        wer, cer = error_rates(
            references, transcribe(model.eval(), args.token_list, waves)
        )
        for key, value in zip(curve, (epoch * EPOCH_STEPS, wer, cer)):
            curve[key].append(value)
    return curve


def read_monitors(exp: Path) -> dict[str, Any]:
    """Read what the guard has seen of a run: `steps`, and `values` by monitor."""
    last = max(exp.glob("pl_state/*epoch.rank0.pth"), key=lambda p: int(p.name[:-15]))
    guard = torch.load(last, weights_only=True)["guard"]
    values = {
        name: [None if math.isnan(value) else value for value in column]
        for name, column in guard["values"].items()
    }
    return {"steps": guard["steps"], "values": values}


def run(name: str, method: Mapping[str, Any], seed: int, options: Any) -> dict:
    """Train and decode one method with one seed, or read what was found before.

    Args:
        name: Of the method.
        method: What differs from `SETTING`.
        seed: The seed.
        options: The command line's.

    Returns:
        The dev curve and the monitors at every step.
    """
    slug = "".join(c if c.isalnum() else "_" for c in name)
    exp = options.work / slug / f"seed{seed}"
    result = exp / "result.json"
    if result.exists():
        return json.loads(result.read_text())
    exp.mkdir(parents=True, exist_ok=True)
    method = dict(method)
    if "seed_steps" in method:
        with ONE_AT_A_TIME:  # Two runs may want the same seed model.
            weak = weak_seed(method.pop("seed_steps"), seed, options)
        method["init_param"] = [str(weak)]
    conf = configure(method, seed, options.recipe, exp)
    train(conf, exp, options.recipe)
    curve = decode_all(exp, Path(conf["init_param"][0]), options.recipe)
    found = {"dev": curve, "monitors": read_monitors(exp)}
    common.write_json(result, found)
    for checkpoint in exp.glob("*.pth"):
        checkpoint.unlink()
    print(f"{name}, seed {seed}: dev WER {curve['wer'][-1]:.1%}", flush=True)
    return found


def risen(curve: Mapping[str, Sequence[float]], by: float = 0.1) -> int | None:
    """Return the step at which the WER has risen by a share, if it has.

    Args:
        curve: `step` and `wer` of every decoding.
        by: The share of the first WER.

    Returns:
        The step, interpolated between the two decodings around it.
    """
    limit = curve["wer"][0] * (1.0 + by)
    points = list(zip(curve["step"], curve["wer"]))
    for (before, low), (after, high) in itertools.pairwise(points):
        if high >= limit:
            return round(before + (after - before) * (limit - low) / (high - low))
    return None


def first_alarm(monitors: Mapping[str, Any]) -> tuple[int | None, str]:
    """Show a run's monitors to a guard with its default settings.

    Args:
        monitors: `steps`, and `values` by monitor, as the guard itself kept them.

    Returns:
        The step of the first alarm, or None, and what it says.
    """
    guard = Guard("warn")
    columns = zip(*(monitors["values"][name] for name in MONITORS))
    for step, values in zip(monitors["steps"], columns):
        known = [math.nan if value is None else value for value in values]
        alarm = guard.observe(step, dict(zip(MONITORS, known)))
        if alarm is not None:
            return step, explain(alarm).splitlines()[0]
    return None, ""


def summarize(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Bring the runs of one method, one per seed, to the figures of a row.

    Args:
        found: What `run` returned, by seed.

    Returns:
        Errors at both ends in percent, monitors at both ends, when errors rose by a
        tenth (for good or not) and when the guard fired.
    """
    mean = lambda values: float(np.mean(list(values)))  # noqa: E731
    row: dict[str, Any] = {
        "wer_start": 100 * mean(one["dev"]["wer"][0] for one in found),
        "wer_end": 100 * mean(one["dev"]["wer"][-1] for one in found),
        "wer_worst": 100 * mean(max(one["dev"]["wer"]) for one in found),
        "wer_end_max": 100 * max(one["dev"]["wer"][-1] for one in found),
        "wer_end_min": 100 * min(one["dev"]["wer"][-1] for one in found),
        "cer_end": 100 * mean(one["dev"]["cer"][-1] for one in found),
        "risen": [risen(one["dev"]) for one in found],
        "alarm": [first_alarm(one["monitors"])[0] for one in found],
        "says": [first_alarm(one["monitors"])[1] for one in found],
    }
    for monitor in MONITORS:
        for end, part in (("start", slice(0, 20)), ("end", slice(-20, None))):
            values = [one["monitors"]["values"][monitor][part] for one in found]
            known = [v for column in values for v in column if v is not None]
            row[f"{monitor}_{end}"] = mean(known) if known else None
    return row


def verdict(row: Mapping[str, Any]) -> str:
    """Say when the guard fired on each seed, and when errors rose by a tenth."""
    words = []
    for rise, alarm in zip(row["risen"], row["alarm"]):
        if alarm is None:
            words.append("silent" if rise is None else f"missed ({rise})")
        elif rise is None:
            words.append(f"unneeded ({alarm})")
        else:
            words.append(f"{'in time' if alarm < rise else 'late'} ({alarm}, {rise})")
    return ", ".join(words)


def flatten(
    rows: Mapping[str, Mapping[str, Any]], seeds: Sequence[int]
) -> dict[str, Any]:
    """Lay rows out as one flat object: `method.figure`, `method.figure.seedN`."""
    figures: dict[str, Any] = {}
    for name, row in rows.items():
        for key, value in row.items():
            if isinstance(value, list):
                each = {f"{name}.{key}.seed{s}": v for s, v in zip(seeds, value)}
                figures.update(each)
            else:
                figures[f"{name}.{key}"] = value
    return figures


COLUMNS = (
    "method",
    "dev WER",
    "range",
    "worst",
    "dev CER",
    "blank",
    "frame H",
    "mean H",
    "MI",
    "length",
    "guard, by seed",
)


def table(rows: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """Lay out one line for each method, in the order given."""
    lines = []
    for name, row in rows.items():
        ends = [
            f"{row[f'pl_{key}_start']:.2f} > {row[f'pl_{key}_end']:.2f}"
            for key in (
                "blank_share",
                "frame_entropy",
                "mean_entropy",
                "mutual_information",
                "length_ratio",
            )
        ]
        lines.append(
            [
                name,
                f"{row['wer_start']:.1f} > {row['wer_end']:.1f}",
                f"{row['wer_end_min']:.1f}-{row['wer_end_max']:.1f}",
                f"{row['wer_worst']:.1f}",
                f"{row['cer_end']:.1f}",
                *ends,
                verdict(row),
            ]
        )
    return lines


def plot(found: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Plot the dev WER of all methods, and the monitors of soft and hard labels.

    Args:
        found: What `run` returned, by method and seed.
        path: The PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 9), layout="constrained")
    axes = figure.subplot_mosaic("AAB\nAAC\nAAD")
    colors = [f"C{index % 10}" for index in range(len(found))]
    for index, (name, runs) in enumerate(found.items()):
        steps = runs[0]["dev"]["step"]
        wer = np.mean([one["dev"]["wer"] for one in runs], axis=0)
        style = ("-", "--", ":")[index // 10]
        axes["A"].plot(steps, 100 * wer, style, color=colors[index], label=name)
    axes["A"].set(xlabel="step", ylabel="dev WER, %, mean over seeds")
    axes["A"].legend(fontsize=7, ncols=2)
    shown = {
        "B": "pl_blank_share",
        "C": "pl_frame_entropy",
        "D": "pl_mutual_information",
    }
    for key, monitor in shown.items():
        for name, color in (("soft_ce", "C3"), ("hard_ctc", "C0")):
            for one in found.get(name, ()):
                values = np.array(one["monitors"]["values"][monitor], dtype=float)
                smooth = np.convolve(values, np.ones(10) / 10, "valid")
                axes[key].plot(one["monitors"]["steps"][9:], smooth, color=color)
                alarm, _ = first_alarm(one["monitors"])
                if alarm is not None:
                    axes[key].axvline(alarm, color=color, ls=":")
        axes[key].set(ylabel=monitor)
    axes["B"].set_title("red soft_ce, blue hard_ctc; dotted: first alarm", fontsize=9)
    figure.savefig(path, dpi=110)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write a flat object of figures")
    parser.add_argument("--plot", type=Path, help="write a PNG")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", default=None, help="names of methods")
    parser.add_argument(
        "--border", action="store_true", help="map where soft and hard labels collapse"
    )
    parser.add_argument(
        "--jobs", type=int, default=2, help="runs at a time (default 2)"
    )
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="its directory")
    parser.add_argument(
        "--work", type=Path, default=None, help="default: exp/collapse in the recipe"
    )
    options = parser.parse_args(argv)
    options.methods = _border() if options.border else METHODS
    for name in options.only or ():
        if name not in options.methods:
            parser.error(f"--only: {name!r} is none of: {'; '.join(options.methods)}")
    options.recipe = options.recipe.resolve()
    options.work = (options.work or options.recipe / "exp/collapse").resolve()
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is asked for, and print the table."""
    options = parse_args(argv)
    torch.set_num_threads(1)
    prepare(options.recipe, options.seeds, options.jobs)
    options.work.mkdir(parents=True, exist_ok=True)
    names = options.only or list(options.methods)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        waiting = {
            (name, seed): pool.submit(run, name, options.methods[name], seed, options)
            for seed in options.seeds
            for name in names
        }
        done = {key: future.result() for key, future in waiting.items()}
    found = {name: [done[name, seed] for seed in options.seeds] for name in names}
    rows = {name: summarize(runs) for name, runs in found.items()}
    print(common.format_table(COLUMNS, table(rows)))
    if options.plot:
        plot(found, options.plot)
    if options.json:
        figures = flatten(rows, options.seeds)
        machine = common.describe_machine(torch.device("cpu"))
        machine["command"] = common.command_line("benchmarks/collapse.py", argv)
        common.write_json(options.json, {**machine, **figures})


if __name__ == "__main__":
    main()
