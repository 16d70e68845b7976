"""Kill trainings at random, resume them, and compare with those left alone.

Each case is a short training on the mini corpus from the recipe's seed model, with one
kind of teacher, cache and loss. It is run once undisturbed. Then it is run again and
again, killed (SIGKILL) at random moments or in the middle of writing a file, told to
stop (SIGTERM) at some, and resumed until it has finished; everything it leaves behind
must be what the undisturbed run left: weights, averages, teacher, label cache,
statistics, links, plots.

    python benchmarks/soak.py --kills 200 --json soak.json

The corpus and the seed model come from stages 1 to 8 of the recipe, which are run first
where they are missing. A run that differs is kept in --work.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import datetime
import io
import math
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import torch
import yaml
from mini import RECIPE, prepare, read_preset, seed_model

from espnet_softpl.cache.store import LabelStore
from espnet_softpl.training.resume.interruption import EXIT_STATUS
from espnet_softpl.training.resume.layout import load_checkpoint

# Trainings are forked from a process that has imported ESPnet, which takes longer than
# a training here.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["espnet_softpl.training.task"])
MOST_KILLS = 6  # Of one run; then it may finish.
LONGEST_SURVIVAL = 60  # In seconds, of a process after one that was killed.
HARD = dict(pl_criterion="hard_ctc", pl_teacher="student")
SOFT = dict(pl_criterion="soft_ce")
SMALL = dict(size=3, probability=0.5)
SCHEDULE = dict(labeled_steps=1, unlabeled_steps=2, start_step=1)
# Most cases have the block form.
INTERLEAVED = dict(SCHEDULE, form="interleaved")

CASES: dict[str, dict[str, Any]] = {
    "student, slimipl": {**HARD, "pl_cache": "slimipl", "pl_cache_conf": SMALL},
    "ema, slimipl, soft labels on disk": {
        **SOFT,
        "pl_teacher_conf": {"decay": 0.9, "warmup": True},
        "pl_cache": "slimipl",
        "pl_cache_conf": {**SMALL, "precision": "uint8"},
    },
    "student, label_change, sampled": {
        **HARD,
        "pl_cache": "label_change",
        "pl_cache_conf": {"size": 3, "lag": 3},
        "pl_shaping": ["sample"],
        "pl_schedule_conf": INTERLEAVED,
        "num_workers": 1,
    },
    "student, label_change, accumulation": {
        **HARD,
        "pl_cache": "label_change",
        "pl_cache_conf": {"size": 3, "lag": 3},
        "accum_grad": 2,
    },
    "topn, slimipl, soft labels on disk": {
        **SOFT,
        "pl_teacher": "topn",
        "pl_teacher_conf": {"n": 2},
        "pl_cache": "slimipl",
        "pl_cache_conf": {**SMALL, "precision": "uint8"},
    },
    "ema, plots": {
        **SOFT,
        "pl_teacher_conf": {"half_life_steps": 5, "every_steps": 2},
        "pl_schedule_conf": INTERLEAVED,
        "use_matplotlib": True,
    },
    "delayed, accumulation": {
        **HARD,
        "pl_teacher": "delayed",
        "pl_teacher_conf": {"steps": 3},
        "pl_schedule_conf": INTERLEAVED,
        "accum_grad": 2,
    },
    "topn, relabeled in place": {
        **HARD,
        "pl_teacher": "topn",
        "pl_teacher_conf": {"n": 2},
        "pl_cache": "slimipl",
        "pl_cache_conf": {"size": 4, "probability": 0.4, "in_place": True},
    },
    "frozen, calibrated filter": {
        **HARD,
        "pl_teacher": "frozen",
        "pl_filter": ["tokens", "confidence"],
        "pl_filter_conf": {"confidence": {"max_error": 0.2, "window": 60}},
    },
    "ema, back-off, separate head": {
        **SOFT,
        "pl_separate_head": True,
        "pl_shaping": ["align"],
        "pl_guard": "back_off",
        "pl_guard_conf": {
            "reference_steps": 1,
            "window": 1,
            "patience": 1,
            "max_back_offs": 99,
            "limits": {"pl_frame_entropy": {"above": 1e-6}},
        },
        "pl_cache": "slimipl",
        "pl_cache_conf": SMALL,
    },
    # The third alarm ends it, with status 3.
    "ema, two back-offs, then a stop": {
        **SOFT,
        "pl_guard": "back_off",
        "pl_guard_conf": {
            "reference_steps": 1,
            "window": 1,
            "patience": 4,
            "max_back_offs": 2,
            "limits": {"pl_frame_entropy": {"above": 1e-6}},
        },
    },
    "hybrid, forced_soft, slimipl": {
        **SOFT,
        "model_conf": {"ctc_weight": 0.3},
        "decoder": "transformer",
        "decoder_conf": {"attention_heads": 2, "linear_units": 64, "num_blocks": 1},
        "pl_decoder": "forced_soft",
        "pl_cache": "slimipl",
        "pl_cache_conf": SMALL,
    },
    "two processes, slimipl": {
        **HARD,
        "pl_cache": "slimipl",
        "pl_cache_conf": SMALL,
        "dist_world_size": 2,
        "dist_backend": "gloo",
    },
    "ema, early stop": {
        **HARD,
        "pl_teacher": "ema",
        "pl_teacher_conf": {"retention": 0.5},
        "patience": 1,
        "early_stopping_criterion": ["train", "pl_turnover", "max"],
        "pl_cache": "slimipl",
        "pl_cache_conf": {"size": 2, "probability": 0.0},
    },
}


def configure(case: Mapping[str, Any], recipe: Path, work: Path) -> dict[str, Any]:
    """Make the ESPnet configuration of a case.

    Args:
        case: What differs between the cases.
        recipe: The recipe's directory.
        work: Where files of the configuration go.

    Returns:
        The configuration.
    """
    preset = recipe / "conf/tuning/train_pl_hard_ctc.yaml"
    conf = read_preset(preset, recipe, work)
    dump = recipe / "dump/mini"
    conf.update(
        unlabeled_data_path_and_name_and_type=[
            [str(dump / "unlabeled/wav.scp"), "speech", "sound"]
        ],
        unlabeled_oracle_text=str(dump / "unlabeled/text.oracle"),
        init_param=[str(seed_model(recipe, 1))],
        batch_bins=100_000,  # Some two or three utterances: a step is short.
        num_iters_per_epoch=6,
        max_epoch=4,
        keep_nbest_models=2,
        num_workers=0,
        log_interval=1000,
        log_level="WARNING",
        pl_schedule_conf=SCHEDULE,
    )
    conf.update(case)
    return conf


@dataclasses.dataclass(frozen=True)
class Attempt:
    """How one attempt at a run ends, if it does not finish before.

    Attributes:
        kind: `never`, `time` (SIGKILL after `seconds`), `term` (SIGTERM then),
            `write` (SIGKILL in the middle of the `number`-th file that torch saves) or
            `file` (SIGKILL at the `number`-th renaming, linking or deletion).
        seconds: Since the training began.
        number: Counted from 1.
        share: Of the bytes that are written before.
        rank: The one of several processes that it happens to.
    """

    kind: str = "never"
    seconds: float = 0.0
    number: int = 0
    share: float = 0.0
    rank: int = 0


def draw_attempt(rng: random.Random, seconds: float) -> Attempt:
    """Draw how an attempt ends.

    Args:
        rng: The generator.
        seconds: How long the undisturbed run takes.

    Returns:
        The attempt.
    """
    kind = rng.choice(["time", "time", "time", "write", "write", "file", "term"])
    return Attempt(
        kind,
        seconds=rng.uniform(0.0, 0.7 * seconds),
        number=rng.randint(1, 12),
        share=rng.random(),
        rank=rng.randrange(2),
    )


def die() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(attempt: Attempt) -> None:
    """Make this process kill itself at the chosen file operation."""
    left = {"write": attempt.number, "file": attempt.number}
    save = torch.save

    def torn_save(state: Any, target: Any, *args: Any, **kwargs: Any) -> None:
        left["write"] -= 1
        if left["write"]:
            save(state, target, *args, **kwargs)
            return
        whole = io.BytesIO()
        save(state, whole, *args, **kwargs)
        part = whole.getvalue()[: int(attempt.share * len(whole.getvalue()))]
        with contextlib.ExitStack() as stack:
            file = target
            if not hasattr(target, "write"):
                file = stack.enter_context(open(target, "wb"))
            file.write(part)
            file.flush()
            die()

    def killing(operation: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left["file"] -= 1
            if not left["file"] and attempt.share < 0.5:
                die()
            result = operation(*args, **kwargs)
            if not left["file"]:
                die()
            return result

        return call

    if attempt.kind == "write":
        torch.save = torn_save
    if attempt.kind == "file":
        for name in ("replace", "unlink", "symlink"):
            setattr(os, name, killing(getattr(os, name)))


def tell_when_met(ready: Any) -> None:
    """Set an event when all processes have met.

    Before that, a process that has died is waited for; it is the launcher that ends
    the others.
    """
    meet = torch.distributed.init_process_group

    def met(*args: Any, **kwargs: Any) -> None:
        meet(*args, **kwargs)
        ready.set()

    torch.distributed.init_process_group = met


def train(
    config: Path,
    out: Path,
    recipe: Path,
    attempt: Attempt,
    ready: Any,
    more: Sequence[str],
) -> None:
    """Train in this process, with `more` options; never returns."""
    log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(recipe)
    torch.set_num_threads(1)
    arm(attempt)
    from espnet_softpl.training.task import SoftPLTask

    if more:
        tell_when_met(ready)
    else:
        ready.set()
    status = 0
    try:
        command = ["--config", str(config), "--output_dir", str(out)]
        SoftPLTask.main(cmd=[*command, "--resume", "true", *more])
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stderr.flush()
    os._exit(status)


def attempt_run(config: Path, out: Path, recipe: Path, attempt: Attempt) -> int:
    """Train until the end, or until the attempt's.

    Args:
        config: The ESPnet configuration.
        out: The experiment directory.
        recipe: The recipe's directory.
        attempt: How it ends.

    Returns:
        0 where the training finished, 3 where its guard ended it, 143 where it stopped
        when told to, -9 where it was killed. Of several processes that is the one's to
        which the attempt happens.

    Raises:
        RuntimeError: It failed otherwise, or other processes outlived a killed one.
    """
    world = yaml.safe_load(config.read_text()).get("dist_world_size", 1)
    victim, begun = attempt.rank % world, [SERVER.Event() for _ in range(world)]
    meeting = f"file://{out.resolve()}.{time.monotonic_ns()}.rendezvous"
    processes = []
    for rank in range(world):
        more = ["--dist_rank", str(rank), "--dist_init_method", meeting]
        mine = attempt if rank == victim else Attempt()
        args = (config, out, recipe, mine, begun[rank], more if world > 1 else ())
        processes.append(SERVER.Process(target=train, args=args))
        processes[-1].start()
    process = processes[victim]
    if attempt.kind in ("time", "term"):
        while not begun[victim].wait(1) and process.is_alive():
            pass
        process.join(attempt.seconds)
        if process.is_alive():
            number = signal.SIGKILL if attempt.kind == "time" else signal.SIGTERM
            os.kill(process.pid, number)
    process.join()
    log = out.with_suffix(".log")
    for other in processes:
        other.join(LONGEST_SURVIVAL)
        if other.is_alive():
            other.kill()
            raise RuntimeError(f"{out}: outlived the other at {attempt}, see {log}")
    # Told to stop before it listens, a training ends at once.
    statuses = (0, 3, EXIT_STATUS, -signal.SIGKILL, -signal.SIGTERM)
    if process.exitcode not in statuses:
        tail = log.read_text()[-3000:]
        raise RuntimeError(f"{out}: status {process.exitcode} at {attempt}\n{tail}")
    return process.exitcode


def is_time(name: str) -> bool:
    """Tell whether a statistic measures time or memory, which no run repeats."""
    return name == "time" or name.endswith("_time") or name.startswith("gpu_")


def plain(state: Any, directory: Path) -> Any:
    """Strip a state of what no two runs share, and fetch the labels from their files.

    Args:
        state: What torch loaded.
        directory: Where the label cache's files are.

    Returns:
        Nested dicts and lists.
    """
    if isinstance(state, Mapping) and "places" in state:
        store = LabelStore(directory)
        store.load_state_dict(state)
        return {slot: plain(store.get(slot), directory) for slot in store.slots()}
    if isinstance(state, Mapping):
        return {
            key: plain(value, directory)
            for key, value in state.items()
            if not is_time(str(key))
        }
    if isinstance(state, (list, tuple)):
        return [plain(value, directory) for value in state]
    return state


def same(one: Any, other: Any) -> bool:
    """Compare states bit for bit; NaN is NaN."""
    if isinstance(one, torch.Tensor):
        if not isinstance(other, torch.Tensor) or one.dtype != other.dtype:
            return False
        if one.is_floating_point():
            if one.shape != other.shape:
                return False
            one, other = (t.reshape(-1).view(torch.uint8) for t in (one, other))
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    if isinstance(one, datetime.timedelta):
        return True
    return bool(one == other)


def contents(out: Path) -> dict[str, Any]:
    """Read all that a finished training leaves behind.

    Args:
        out: The experiment directory.

    Returns:
        Contents by relative path: states, link targets, bytes of plots. Logs, files of
        the cache (they are read through the states that name them), and the side state
        and checkpoint of the epoch before the last are left out.
    """
    found: dict[str, Any] = {}
    epochs = [
        int(p.name.partition("epoch")[0]) for p in out.glob("pl_state/*epoch.rank*")
    ]
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.suffix == ".png" and not is_time(path.stem):
            found[name] = path.read_bytes()
        elif path.suffix == ".pth" and not name.startswith("pl_cache"):
            # What a stop in an epoch saved that the guard then ended stays there.
            if path.name.startswith("previous_") or "batches." in name:
                continue
            if "rank" in name and not path.name.startswith(f"{max(epochs)}epoch."):
                continue
            state = load_checkpoint(path)
            rank = name.split(".")[-2] if "rank" in name else "rank0"
            found[name] = plain(state, out / "pl_cache" / rank)
    return found


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Name what differs between two finished trainings."""
    names = sorted(one.keys() | other.keys())
    return [
        n for n in names if n not in one or n not in other or not same(one[n], other[n])
    ]


@dataclasses.dataclass
class Tally:
    """What has happened to one case.

    Attributes:
        runs: Disturbed runs that have finished.
        kills: SIGKILLs.
        in_files: Those in the middle of a file operation.
        terms: SIGTERMs, each saved and ended.
        differences: Runs that differ from the undisturbed one.
    """

    runs: int = 0
    kills: int = 0
    in_files: int = 0
    terms: int = 0
    differences: int = 0


class Soak:
    """The cases, their undisturbed runs, and the tallies.

    Args:
        options: The command line's.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.tallies = {name: Tally() for name in options.only}
        self._lock = threading.Lock()

    def kills(self) -> int:
        """Return the SIGKILLs so far."""
        return sum(tally.kills for tally in self.tallies.values())

    def run_case(self, name: str) -> None:
        """Disturb one case until it has had its share of the kills."""
        number = list(CASES).index(name)
        work = self.options.work / f"case{number}"
        work.mkdir(parents=True, exist_ok=True)
        config = work / "train.yaml"
        conf = configure(CASES[name], self.options.recipe, work)
        config.write_text(yaml.safe_dump(conf, sort_keys=False))
        recipe = self.options.recipe
        start = time.perf_counter()
        final = attempt_run(config, work / "undisturbed", recipe, Attempt())
        seconds = time.perf_counter() - start
        expected = contents(work / "undisturbed")
        rng = random.Random(f"{self.options.seed} {name}")
        tally = self.tallies[name]
        share = math.ceil(self.options.kills / len(self.tallies))
        while tally.kills < share:
            out = work / f"run{tally.runs}"
            self._disturb(config, out, rng, seconds, tally, share, final)
            differ = differences(expected, contents(out))
            tally.runs += 1
            if differ:
                tally.differences += 1
                print(f"{name}: {out} differs in {differ}", flush=True)
            else:
                shutil.rmtree(out)
                out.with_suffix(".log").unlink()
            print(f"{name}: {dataclasses.asdict(tally)}", flush=True)

    def _disturb(
        self,
        config: Path,
        out: Path,
        rng: random.Random,
        seconds: float,
        tally: Tally,
        share: int,
        final: int,
    ) -> None:
        """Bring one run to its end, the undisturbed one's status, through kills."""
        kills = 0
        while True:
            attempt = Attempt()
            if kills < MOST_KILLS and tally.kills < share:
                attempt = draw_attempt(rng, seconds)
            status = attempt_run(config, out, self.options.recipe, attempt)
            if status == final:
                return
            if status == -signal.SIGKILL:
                kills += 1
                tally.kills += 1
                tally.in_files += attempt.kind in ("write", "file")
            elif status == EXIT_STATUS:
                tally.terms += 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=200, help="SIGKILLs in all")
    parser.add_argument("--seed", type=int, default=1, help="of the kills")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument(
        "--only", nargs="+", default=list(CASES), choices=list(CASES), help="cases"
    )
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="its directory")
    parser.add_argument("--work", type=Path, help="directory (default: temporary)")
    parser.add_argument("--json", type=Path, help="where the figures go")
    return parser.parse_args(argv)


@contextlib.contextmanager
def workplace(work: Path | None) -> Iterator[Path]:
    """Yield a directory; a temporary one is deleted unless something differs."""
    if work is not None:
        yield work.resolve()
        return
    directory = Path(tempfile.mkdtemp(prefix="soak."))
    yield directory
    if not any(directory.glob("case*/run*")):
        shutil.rmtree(directory)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the status is 1 where a run differs."""
    options = parse(argv)
    prepare(options.recipe, [1], options.jobs)
    start = time.perf_counter()
    with workplace(options.work) as work:
        options.work = work
        soak = Soak(options)
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            for done in [pool.submit(soak.run_case, name) for name in options.only]:
                done.result()
    minutes = (time.perf_counter() - start) / 60.0
    names = [field.name for field in dataclasses.fields(Tally)]
    rows = [
        [name, *(str(getattr(tally, n)) for n in names)]
        for name, tally in soak.tallies.items()
    ]
    total = {
        n: sum(getattr(tally, n) for tally in soak.tallies.values()) for n in names
    }
    rows.append(["all", *(str(total[n]) for n in names)])
    print(common.format_table(["case", *names], rows))
    if options.json:
        figures: dict[str, Any] = {
            "command": common.command_line("benchmarks/soak.py", argv),
            "minutes": minutes,
            **total,
            **common.describe_machine(torch.device("cpu")),
        }
        for name, tally in soak.tallies.items():
            for n in names:
                figures[f"{name}.{n}"] = getattr(tally, n)
        common.write_json(options.json, figures)
    return 1 if total["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
