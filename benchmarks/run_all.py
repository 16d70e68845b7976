"""Measure the claims of speed and memory, and write them down in docs/performance.md.

    python benchmarks/run_all.py --json FILE [--device cuda]

Steps are those of ESPnet's trainer on a mini-batch of the mini recipe, with its model
and presets (`steps.py`). All arms take turns in one process. What is measured is
processor time, on a GPU elapsed time. A ratio is taken in each round; given are the
median over rounds and both quartiles.

*Arithmetic* of a step with a teacher is the step of a stock training on the same
mini-batch, and a bare forward of the teacher: encoder and CTC head, without gradient.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import re
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cache
import labeling
import startup
import step_cost
import step_profile
import torch
from common import (
    ROOT,
    command_line,
    describe_machine,
    measuring_parser,
    now,
    peak_bytes,
    take_turns,
    write_json,
)
from steps import TOKENS, Bench
from syncs import Syncs

from espnet_softpl.cache.compression import Compression

PAGE = ROOT / "docs/performance.md"
LARGE = "models/conformer_ctc/train_warmup.yaml"
REPLACED = 0.1  # Share of a cache's steps that replace labels, its p.


class Claim(NamedTuple):
    """One figure of the page.

    Attributes:
        text: What it is.
        goal: What it should be at most, None for no goal.
        form: How it is written.
    """

    text: str
    goal: float | None = None
    form: str = ".3f"


CLAIMS = {
    "ema_step_over_arithmetic": Claim("EMA step / arithmetic: `hard_ctc`", 1.0),
    "ema_step_over_arithmetic.soft_ce": Claim("the same: `soft_ce`", 1.0),
    "ema_soft_ctc_over_arithmetic": Claim("the same: `soft_ctc`", 1.04),
    "ema_soft_ctc_over_arithmetic.nbest_ctc": Claim("the same: `nbest_ctc`", 1.04),
    "ema_soft_ctc_over_arithmetic.consistency": Claim(
        "the same: `hard_ctc` with `consistency`; two student views in both", 1.03
    ),
    "cached_step_ratio": Claim("step on cached labels / stock step", 1.02),
    "refresh_step_over_arithmetic": Claim(
        "cache with p = 0.1, mean step / (stock step + 0.1 teacher forwards)", 1.02
    ),
    "refresh_step_over_arithmetic.replacing": Claim(
        "cache, a step that replaces labels / arithmetic"
    ),
    "labeled_step_ratio": Claim("labeled step of a PL run / stock step", 1.005),
    "bookkeeping_share": Claim(
        "statistics, guard, counts, reports: share of a `hard_ctc` step", 0.01
    ),
    "label_over_encoder": Claim(
        "labeling a set, files read and written / encoder and head alone", 1 / 0.95
    ),
    "label_over_encoder.conformer_ctc": Claim(
        "the same: a model of 18 blocks of 256 (`conf/models/conformer_ctc`)", 1 / 0.95
    ),
    "label_vs_stock": Claim(
        "labeling a set / ESPnet's decoding of it (`conf/decode.yaml`), in time", 1.0
    ),
    "startup_1m_s": Claim("start on a million unlabeled utterances, s", 10.0, ".1f"),
    "memory_1m_mb": Claim("the memory that they take, MB", 150.0, ".0f"),
    "soft_cache_share_v32": Claim(
        "soft labels in a cache, `min_p` 0.1 / V, / float32: V = 32", 0.05
    ),
    "soft_cache_share_v32.loss_change": Claim("what this changes of `soft_ce`", 0.015),
    "soft_cache_share_v5000": Claim("the same: V = 5000, `top_k` 128", 0.01),
    "soft_cache_share_v5000.loss_change": Claim(
        "what this changes of `soft_ce`", 0.015
    ),
    "peak_memory_ratio": Claim(
        "peak memory of a `hard_ctc` step / of a stock step", None
    ),
    "host_syncs_extra": Claim(
        "waits of the host, unlabeled step less stock step", 6, ".0f"
    ),
    "host_syncs_extra.labeled": Claim(
        "waits of the host, labeled step of a PL run less stock step", 2, ".0f"
    ),
    "ops_soft_ctc_over_hard": Claim(
        "dispatched operations at T = 400, `soft_ctc` less `hard_ctc`", 500, ",.0f"
    ),
    "matrix_rate_share": Claim(
        "matrix products in a `hard_ctc` step / those that the machine can do in that "
        "time (float32, on a GPU bfloat16)"
    ),
    "hours_labeled_per_s": Claim("hours of speech labeled in a second", None, ".4f"),
}
STARTUP = ("startup_s", "memory_mb")
MISSING = (
    "Not measured: `updates_to_offline_wer`, which takes trainings of many minutes."
)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median and both quartiles of at least one value."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def step_arms(bench: Bench) -> dict[str, Callable[[], float]]:
    """Make the steps that take turns, in seconds."""
    run = bench.build("tuning/train_pl_hard_ctc.yaml")
    # Labels begin with the first unlabeled mini-batch; then it is a PL run.
    run.step(bench.batch.ids, {"unlabeled": bench.batch.unlabeled()})
    criteria = ("hard_ctc", "soft_ce", "soft_ctc", "nbest_ctc", "consistency")
    return {
        "stock": bench.labeled(bench.stock),
        "stock_2_views": bench.labeled(bench.stock, views=2),
        "teacher": bench.teacher(),
        "labeled": bench.labeled(run),
        **{name: bench.unlabeled(name) for name in criteria},
        "cached": bench.cached(replacing=False),
        "replacing": bench.cached(replacing=True),
    }


def step_ratios(times: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Put the times of the steps in relation, round by round.

    Args:
        times: Seconds of each arm by round, see `step_arms`.

    Returns:
        Ratios by the names of claims.
    """
    found: dict[str, list[float]] = {}
    for values in zip(*times.values(), strict=True):
        arm = dict(zip(times, values))
        arithmetic = arm["stock"] + arm["teacher"]
        cached, p = arm["cached"], REPLACED
        mean = (1.0 - p) * cached + p * arm["replacing"]
        ema, graphs = "ema_step_over_arithmetic", "ema_soft_ctc_over_arithmetic"
        both = arm["stock_2_views"] + arm["teacher"]
        ratios = {
            ema: arm["hard_ctc"] / arithmetic,
            f"{ema}.soft_ce": arm["soft_ce"] / arithmetic,
            graphs: arm["soft_ctc"] / arithmetic,
            f"{graphs}.nbest_ctc": arm["nbest_ctc"] / arithmetic,
            f"{graphs}.consistency": arm["consistency"] / both,
            "cached_step_ratio": cached / arm["stock"],
            "refresh_step_over_arithmetic": mean / (arm["stock"] + p * arm["teacher"]),
            "refresh_step_over_arithmetic.replacing": arm["replacing"] / arithmetic,
            "labeled_step_ratio": arm["labeled"] / arm["stock"],
        }
        for name, ratio in ratios.items():
            found.setdefault(name, []).append(ratio)
    return found


def label_ratios(
    times: Mapping[str, Sequence[float]], audio: Mapping[str, float]
) -> dict[str, list[float]]:
    """Put the times of labeling in relation; see `labeling.make_arms`."""
    found: dict[str, list[float]] = {}
    for values in zip(*times.values(), strict=True):
        arm = dict(zip(times, values))
        ours = arm["label_large"] - arm["label_small"]
        stock = arm["label_stock"] / audio["stock"]
        ratios = {
            "label_over_encoder": ours / arm["label_encoder"],
            "label_vs_stock": ours / audio["label"] / stock,
            "hours_labeled_per_s": audio["label"] / 3600.0 / ours,
        }
        for name, ratio in ratios.items():
            found.setdefault(name, []).append(ratio)
    return found


def cache_shares(frames: int, seed: int) -> dict[str, float]:
    """Measure how large soft labels of as many tokens as they need are in a cache.

    Args:
        frames: Of the synthetic teacher, see `cache.make_posteriors`.
        seed: Of its draws.
    """
    figures = {}
    for vocab, top_k in ((32, None), (5000, 128)):
        name = f"soft_cache_share_v{vocab}"
        posteriors = cache.make_posteriors((4, frames, vocab), 25.0, seed)
        lengths = torch.full((4,), frames)
        setting = Compression(top_k, "uint8", 0.1 / vocab)
        packed = setting.compress(posteriors, lengths)
        restored = setting.restore(packed, lengths, frames, vocab)
        figures[name] = cache.stored_bytes(packed) / posteriors.nbytes
        speech = cache.Speech(posteriors, lengths, 25.0)
        figures[f"{name}.loss_change"] = cache.loss_change(speech, restored)
    return figures


def count_operations(
    arms: Mapping[str, Callable[[], float]], long: Bench
) -> dict[str, float]:
    """Count operations and waits of steps that have been made before.

    Args:
        arms: See `step_arms`.
        long: With a mini-batch of T = 400.
    """

    def count(step: Callable[[], float]) -> Syncs:
        with Syncs() as counter:
            step()
        return counter

    waits = {
        name: count(arms[name]).waits.total()
        for name in ("stock", "hard_ctc", "labeled")
    }
    operations = {}
    for name in ("soft_ctc", "hard_ctc"):
        step = long.unlabeled(name)
        step()
        operations[name] = count(step).operations
    return {
        "host_syncs_extra": waits["hard_ctc"] - waits["stock"],
        "host_syncs_extra.labeled": waits["labeled"] - waits["stock"],
        "ops_soft_ctc_over_hard": operations["soft_ctc"] - operations["hard_ctc"],
    }


def matrix_rate(device: torch.device, size: int) -> float:
    """Measure how many floating-point operations per second matrix products make.

    Args:
        device: On a CPU products are in float32, on a GPU in bfloat16.
        size: Rows and columns.
    """
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    left, right = torch.randn(2, size, size, device=device).to(kind)
    times = []
    for _ in range(6):
        start = now(device)
        left @ right
        times.append(now(device) - start)
    return 2.0 * size**3 / statistics.median(times[1:])


def step_operations(bench: Bench, seconds: float) -> int:
    """Count the floating-point operations of a step: a labeled one and a forward."""
    model, size = bench.build("train_control.yaml").model.cpu(), len(bench.batch.ids)
    tokens = bench.batch.text.size(1)
    model.ctc.ctc_lo._forward_hooks.clear()
    steps = step_cost.make_steps(model, size, seconds, tokens, len(TOKENS))
    return sum(step_cost.count_flops(steps).values())


def measure(options: argparse.Namespace, work: Path) -> dict[str, float]:
    """Measure all claims.

    Args:
        options: From `parse_arguments`.
        work: An empty directory.

    Returns:
        Figures by name: claims, their quartiles as `.low` and `.high`, milliseconds
        of the steps, and the profile.
    """
    device, quick = torch.device(options.device), options.quick
    shape = options.batch, options.seconds
    bench = Bench(work / "steps", device, *shape, small=quick, seed=options.seed)
    # 12.84 s make 400 frames.
    long = Bench(work / "long", device, 2, 2.0 if quick else 12.84, small=quick)
    arms = step_arms(bench)
    times = take_turns(arms, options.rounds)
    spread = step_ratios(times)
    label_arms, audio = labeling.make_arms(
        bench, (1 if quick else 4) * 10**6, 1 if quick else 3
    )
    labels = take_turns(label_arms, max(options.rounds // 2, 1))
    spread |= label_ratios(labels, audio)
    # Of a model of usual size: what reads the audio takes the same for both.
    large = Bench(work / "large", device, 2, 10.0, small=quick, stock=LARGE)
    arms_of_large, audio = labeling.make_arms(large, 10**6, 1)
    turns = take_turns(arms_of_large, max(options.rounds // 4, 1))
    of_large = label_ratios(turns, audio)["label_over_encoder"]
    spread["label_over_encoder.conformer_ctc"] = of_large
    rate = matrix_rate(
        device, 128 if quick else 8192 if device.type == "cuda" else 1024
    )
    operations = step_operations(bench, options.seconds)
    shares = [operations / taken / rate for taken in times["hard_ctc"]]
    spread["matrix_rate_share"] = shares
    figures: dict[str, float] = {}
    for name, values in spread.items():
        middle, low, high = quartiles(values)
        figures |= {name: middle, f"{name}.low": low, f"{name}.high": high}
    figures |= cache_shares(100 if quick else 1000, options.seed)
    figures |= count_operations(arms, long)
    started = startup.per_million(2000 if quick else 10**6)
    figures |= {n.replace("_", "_1m_"): started[n] for n in STARTUP}
    peaks = [peak_bytes(arms[name], device) for name in ("hard_ctc", "stock")]
    figures["peak_memory_ratio"] = peaks[0] / peaks[1]
    profile = step_profile.measure(bench, max(options.rounds // 2, 1))
    step = sum(item["step"] for item in profile.values())
    watching = (profile.get(item, {"step": 0.0}) for item in step_profile.BOOKKEEPING)
    figures["bookkeeping_share"] = sum(item["step"] for item in watching) / step
    for item, of in profile.items():
        figures |= {f"profile.{item}.{name}_ms": value for name, value in of.items()}
    for name, taken in {**times, **labels}.items():
        figures[f"{name}_ms"] = 1000.0 * statistics.median(taken)
    return figures


def claim_rows(figures: Mapping[str, Any]) -> list[str]:
    """Write the table of claims."""
    rows = [
        "| key | claim | goal | measured | quartiles | |",
        "|---|---|---|---|---|---|",
    ]
    for key, (text, goal, form) in CLAIMS.items():
        value = figures[key]
        spread = [figures.get(f"{key}.{end}") for end in ("low", "high")]
        cells = [f"`{key}`", text]
        cells.append("" if goal is None else f"≤ {format(goal, form)}")
        cells.append(format(value, form))
        known = spread[0] is not None
        cells.append(" to ".join(format(v, form) for v in spread) if known else "")
        cells.append("" if goal is None else "met" if value <= goal else "**missed**")
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def profile_rows(figures: Mapping[str, Any]) -> list[str]:
    """Write the table of what a step consists of, what is beyond arithmetic first."""
    items = [
        key.split(".")[1]
        for key in figures
        if key.startswith("profile.") and key.endswith(".step_ms")
    ]
    found = {
        item: [figures[f"profile.{item}.{of}_ms"] for of in ("step", "arithmetic")]
        for item in items
    }
    whole, arithmetic = (sum(pair[i] for pair in found.values()) for i in (0, 1))
    found = dict(sorted(found.items(), key=lambda item: item[1][1] - item[1][0]))
    found["all"] = [whole, arithmetic]
    rows = ["| item | step, ms | share | arithmetic, ms | beyond it |"]
    rows.append("|---|---|---|---|---|")
    rows += [
        f"| {item} | {ours:.2f} | {ours / whole:.2%} | {theirs:.2f} | "
        f"{(ours - theirs) / arithmetic:+.2%} |"
        for item, (ours, theirs) in found.items()
    ]
    return rows


def write_page(figures: Mapping[str, Any], page: Path) -> None:
    """Write figures into a page, between its marks; the rest of it stays.

    Args:
        figures: As in the JSON.
        page: Has `<!-- figures -->` and `<!-- end of figures -->`.

    Raises:
        ValueError: The page has no such marks.
    """
    machine = (
        "{machine.cpu}, {machine.threads} thread(s), {machine.device}, torch "
        "{machine.torch}"
    )
    for key in ("cpu", "threads", "device", "torch"):
        machine = machine.replace(f"{{machine.{key}}}", str(figures[f"machine.{key}"]))
    # Where a run wrote its figures is of one machine.
    command = re.sub(r" --(json|page)[ =]\S+", "", str(figures["command"]))
    steps = ("stock", "teacher", "labeled", "hard_ctc", "soft_ctc", "cached")
    times = ", ".join(f"{name} {figures[f'{name}_ms']:.0f}" for name in steps)
    lines = [
        "<!-- figures -->",
        f"`{command}`: {figures['date']}, commit {figures['commit']}, "
        f"{machine}; {figures['rounds']} rounds, {figures['batch']} utterances of "
        f"{figures['seconds']:g} s, random seed {figures['seed']}. "
        f"Milliseconds of the steps: {times}.",
        "",
        *claim_rows(figures),
        "",
        MISSING,
        "",
        "## What a step consists of",
        "",
        *profile_rows(figures),
        "<!-- end of figures -->",
    ]
    text, count = re.subn(
        r"<!-- figures -->.*<!-- end of figures -->",
        lambda _: "\n".join(lines),
        page.read_text(encoding="utf-8"),
        flags=re.S,
    )
    if count != 1:
        raise ValueError(f"{page} has no place for the figures")
    page.write_text(text, encoding="utf-8")


def commit() -> str:
    """Return the last commit of the package, with a + if its files differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(ROOT), *words, "--", "espnet_softpl"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    return git("log", "-1", "--format=%h") + "+" * bool(git("status", "--porcelain"))


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Args:
        argv: Arguments, or None for those of this process.

    Returns:
        The options.
    """
    parser = measuring_parser((__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    # One mini-batch of the recipe: 300,000 samples in utterances of its mean length.
    add("--batch", type=int, default=6, help="utterances of a mini-batch")
    add("--seconds", type=float, default=3.1, help="of each, at least 1")
    add("--rounds", type=int, default=32, help="steps of each kind, at least 1")
    add("--seed", type=int, default=1)
    add("--quick", action="store_true", help="a tiny model, to see that all of it runs")
    add("--page", type=Path, help=f"where the figures go (default: {PAGE.name})")
    options = parser.parse_args(argv)
    for name in ("batch", "seconds", "rounds", "threads"):
        if getattr(options, name) < 1:
            parser.error(f"--{name}: want at least 1")
    if options.quick:
        options.batch, options.seconds, options.rounds = 2, 1.0, 1
    elif options.page is None:
        options.page = PAGE
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Args:
        argv: Arguments, or None for those of this process.

    Returns:
        0, whether or not the goals are met.
    """
    options = parse_arguments(argv)
    torch.set_num_threads(options.threads)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as work, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            measured = measure(options, Path(work))
        finally:
            logging.disable(logging.NOTSET)
    figures: dict[str, Any] = {
        "command": command_line("benchmarks/run_all.py", argv),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "batch": options.batch,
        "seconds": options.seconds,
        "rounds": options.rounds,
        "seed": options.seed,
        "processor_s": time.process_time() - start,
        **describe_machine(torch.device(options.device)),
        **measured,
    }
    print("\n".join([*claim_rows(figures), "", *profile_rows(figures)]))
    if options.page is not None:
        write_page(figures, options.page)
    if options.json is not None:
        write_json(options.json, figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
