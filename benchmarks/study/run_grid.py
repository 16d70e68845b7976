"""The study: which pseudo-label is best on real speech, run by the recipe's stages.

`grid.yaml` says what is run: systems (a preset of the recipe with changes), and for
each corpus what is tuned and what is compared. One line of JSON per run is added to
`runs.jsonl`, with settings, error rates and the errors of each utterance. A run that
has a line is not repeated, and a run that was stopped goes on.

    python benchmarks/study/run_grid.py final commands_ar -- --words DIR
    python benchmarks/study/tables.py commands_ar          # the table of its lines

What follows `--` goes to the recipe's `run.sh`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import kaldialign
import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import common  # noqa: E402

from espnet_softpl.commands.scoring import load_references, to_units  # noqa: E402
from espnet_softpl.data.tables import read_scp  # noqa: E402

RECIPE = common.ROOT / "egs2" / "librispeech_softpl"
LINES = HERE / "runs.jsonl"
UNITS = {"char": "cer", "word": "wer"}
SPEED_COPY = re.compile(r"sp[\d.]+-")  # What stage 3 puts before an id.
SUPERVISED = ("warmup", "control")
# Phases that score the test sets; others score dev.
TESTED = ("final", "votes", "with_lm")
# Of a run's configuration, what a reader wants to see beside its errors.
SHOWN = ("optim_conf", "scheduler_conf", "max_epoch", "num_iters_per_epoch")

# What is kept of each epoch, by its name in a line.
CURVES = {"dev_cer_ctc": "valid/cer_ctc"} | {
    name: f"train/{name}"
    for name in ("pl_cer", "pl_kept", "pl_frame_entropy", "pl_blank_share")
}


def read_lines(path: Path = LINES) -> list[dict[str, Any]]:
    """Read the runs that were recorded, oldest first."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def select_lines(path: Path, **wanted: str) -> list[dict[str, Any]]:
    """Read the runs that have these values; of a run that was repeated, the last."""
    runs = {
        (line["corpus"], line["system"], line["seed"]): line
        for line in read_lines(path)
        if wanted.items() <= line.items()
    }
    return list(runs.values())


def write_preset(name: str, change: Mapping[str, Any], recipe: Path) -> Path:
    """Write a system of the grid as a preset of the recipe.

    Args:
        name: The system.
        change: Its preset, as `base`, and what differs from that.
        recipe: The recipe's directory.

    Returns:
        The file, relative to the recipe.
    """
    base = f"../../conf/tuning/train_pl_{change['base']}.yaml"
    conf = {"base_config": base, **{k: v for k, v in change.items() if k != "base"}}
    path = recipe / "exp" / "study" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(conf, sort_keys=False)
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")
    return path.relative_to(recipe)


def utterance_errors(
    references: Mapping[str, str], hypotheses: Mapping[str, str], unit: str
) -> list[int]:
    """Count the errors of each utterance, in the order of the references."""
    return [
        kaldialign.edit_distance(to_units(text, unit), to_units(hypotheses[key], unit))[
            "total"
        ]
        for key, text in references.items()
    ]


def read_settings(directory: Path) -> dict[str, Any]:
    """Return the settings of a finished run that decide its result."""
    conf = yaml.safe_load((directory / "config.yaml").read_text("utf-8"))
    return {
        key: value
        for key, value in conf.items()
        if key in SHOWN or (key.startswith("pl_") and value)
    }


def count_minutes(data: Path, directory: Path) -> dict[str, float]:
    """Return the minutes of audio of each part; copies at other speeds do not count.

    Args:
        data: The corpus's formatted data, a directory each.
        directory: A finished run, which knows the sample rate.
    """
    conf = yaml.safe_load((directory / "config.yaml").read_text("utf-8"))
    per_minute = 60 * float(conf["frontend_conf"]["fs"])
    minutes = {}
    for part in ("labeled", "unlabeled", "dev", "test"):
        samples = read_scp(data / part / "utt2num_samples")
        own = [int(n) for key, n in samples.items() if not SPEED_COPY.match(key)]
        minutes[part] = round(sum(own) / per_minute, 1)
    return minutes


def make_line(
    record: Mapping[str, Any], phase: str, decoding: str, exp: Path, dump: Path
) -> dict[str, Any]:
    """Make the line of one run that stage 11 has scored.

    Args:
        record: Its entry in `results.json`.
        phase: One of `TESTED`, or of those that show the errors of the dev set only.
        decoding: Name of the decoding configuration.
        exp: Directory of the corpus's experiments.
        dump: Directory of the corpus's formatted data.
    """
    directory = exp / f"seed{record['seed']}" / record["system"]
    hypotheses = read_scp(directory / "decode" / "text", empty=True)
    line: dict[str, Any] = {
        "corpus": exp.name,
        "phase": phase,
        "system": record["system"],
        "seed": int(record["seed"]),
        "decoding": decoding,
        "commit": read_commit(),
        "settings": read_settings(directory),
        "updates": record["updates"],
        "seconds": round(record["seconds"]),
        "minutes": count_minutes(dump / "org", directory),
    }
    for name, references in load_references(dump / "org").items():
        if name != "dev" and phase not in TESTED:
            continue
        line[name] = {"utterances": len(references)}
        for unit, rate in UNITS.items():
            errors = utterance_errors(references, hypotheses, unit)
            length = sum(len(to_units(text, unit)) for text in references.values())
            line[name] |= {rate: round(100 * sum(errors) / length, 3)}
            line[name] |= {f"{unit}s": length, f"{unit}_errors": errors}
    for name, key in CURVES.items():
        if values := record["history"].get(key):
            line[name] = [round(value, 4) for _, value in values]
    alarms = (directory / "pl_collapse").glob("step*")
    line["alarms"] = sorted(int(path.name.removeprefix("step")) for path in alarms)
    return line


def read_commit() -> str:
    """Return the commit of this checkout, with a + if files differ from it."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(common.ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    # The lines themselves change with every run.
    changed = git("diff", "HEAD", "--", ".", f":!{LINES.relative_to(common.ROOT)}")
    return git("rev-parse", "--short", "HEAD") + "+" * bool(changed)


def open_runs(
    systems: Sequence[str], seeds: Sequence[int], known: Collection[tuple[str, int]]
) -> dict[tuple[str, ...], list[int]]:
    """Return the seeds by the systems that they still lack.

    Seeds that lack the same ones are run together, side by side.

    Args:
        systems: Names of systems.
        seeds: Random seeds.
        known: Systems and seeds that have a line.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for seed in seeds:
        todo = tuple(name for name in systems if (name, seed) not in known)
        groups.setdefault(todo, []).append(seed)
    groups.pop((), None)
    return groups


def run_systems(
    todo: Sequence[str],
    seeds: Sequence[int],
    grid: Mapping[str, Any],
    options: argparse.Namespace,
) -> None:
    """Train, decode and record systems with some seeds.

    Args:
        todo: Names of systems.
        seeds: The random seeds.
        grid: What `grid.yaml` says.
        options: The command line's.
    """
    phase, corpus, changes = options.phase, options.corpus, grid["systems"]
    # The recipe wants a system of pseudo-labels, also where only others are open.
    presets = [name for name in todo if name not in SUPERVISED] or list(changes)[:1]
    files = [write_preset(n, changes[n], options.recipe) for n in presets]
    command = ["./run.sh", "--corpus", corpus, "--stage", "1", "--stop-stage", "11"]
    command += ["--seeds", " ".join(map(str, seeds))]
    command += ["--run_control", str("control" in todo).lower()]
    command += ["--inference_config", f"conf/{options.decoding}.yaml"]
    # The grid says all of a system: arguments of the corpus's preset do not count.
    command += ["--pl_config", " ".join(map(str, files)), "--pl_args", ""]
    subprocess.run([*command, *options.rest], cwd=options.recipe, check=True)
    exp, dump = options.recipe / "exp" / corpus, options.recipe / "dump" / corpus
    records = json.loads((exp / "results.json").read_text("utf-8"))
    with open(options.lines, "a", encoding="utf-8") as stream:
        for record in records:
            if record["system"] in todo and int(record["seed"]) in seeds:
                line = make_line(record, phase, options.decoding, exp, dump)
                stream.write(json.dumps(line, separators=(",", ":")) + "\n")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog="After -- come options of the recipe's run.sh.",
    )
    parser.add_argument("phase", help="part of grid.yaml: tune, collapse or final")
    parser.add_argument("corpus", help="one of grid.yaml")
    parser.add_argument("--only", nargs="+", help="systems (default: the grid's)")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: the grid's")
    parser.add_argument(
        "--decoding", default="decode", help="name in the recipe's conf"
    )
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="its directory")
    parser.add_argument("--lines", type=Path, default=LINES, help="file of lines")
    # argparse takes no positional arguments after optional ones.
    words = list(sys.argv[1:] if argv is None else argv)
    end = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:end])
    options.rest = words[end + 1 :]
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run a part of the grid."""
    options = parse(argv)
    grid = yaml.safe_load((HERE / "grid.yaml").read_text("utf-8"))
    part = grid.get(options.phase, {}).get(options.corpus)
    if part is None or options.phase == "systems":
        sys.exit(f"error: grid.yaml has no {options.corpus} in {options.phase}")
    systems = options.only or part["systems"]
    if unknown := [n for n in systems if n not in (*SUPERVISED, *grid["systems"])]:
        sys.exit(f"error: grid.yaml has no system {', '.join(unknown)}")
    options.rest = [*part.get("options", []), *options.rest]
    key = {name: getattr(options, name) for name in ("corpus", "phase", "decoding")}
    known = {(run["system"], run["seed"]) for run in select_lines(options.lines, **key)}
    seeds = options.seeds or part["seeds"]
    for todo, together in open_runs(systems, seeds, known).items():
        run_systems(todo, together, grid, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
