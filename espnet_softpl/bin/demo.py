"""See pseudo-labeling work within a minute, on two processor cores and no data.

It synthesizes a small corpus, labels 20 utterances with a base model that comes with
the package, trains that model on with soft pseudo-labels for 50 mini-batches, labels
the 20 utterances again, and writes the report. Each step is a command of `softpl`,
which it prints. It needs the packages of the extras `mini` and `recipe`.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import re
import shlex
import sys
import webbrowser
from pathlib import Path

from espnet_softpl.bin import add_pl, label, make_mini_corpus, report, train
from espnet_softpl.commands.arguments import Parser, command, new_directory
from espnet_softpl.core.errors import UserError
from espnet_softpl.core.quick_imports import quick_imports

MODEL = Path(__file__).with_name("demo_model")  # Made by tools/make_demo_model.py.
COMMANDS = {
    "make-mini-corpus": make_mini_corpus.main,
    "label": label.main,
    "add": add_pl.main,
    "train": train.main,
    "report": report.main,
}
NEEDED = {"espeakng_loader": "mini", "plotly": "recipe"}
UTTERANCES = 20  # That are labeled before and after.
SHOWN = 3  # Of which the transcripts are shown.
MAKE = "make-mini-corpus --out {out}/corpus --scale 0.25 --seed 7 --quiet"
LABEL = "label --wav_scp {out}/data/dev-some/wav.scp --num_workers 0 --pl_filter"
BEFORE = f"{LABEL} --asr_exp {{model}} --out {{out}}/before"
# After so few steps the teacher, an average of them, is ahead of the student.
AFTER = f"{LABEL} --asr_exp {{out}}/exp --which teacher --out {{out}}/after"
ADD = (
    "add --asr_exp {model} --labeled {out}/data/train-labeled --valid {out}/data/dev "
    "--unlabeled {out}/data/train-unlabeled --criterion soft_ctc "
    "--out {out}/train_pl.yaml --exp_dir {out}/exp"
)
# One update for each mini-batch, and a teacher that follows within 25.
TRAIN = (
    "train --config {out}/train_pl.yaml --output_dir {out}/exp "
    "--pl_schedule_conf form=interleaved --pl_teacher_conf decay=0.97 "
    "--unlabeled_oracle_text {out}/data/train-unlabeled/text"
)
REPORT = "report {out}/exp --out {out}/report --audio"


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = Parser(__doc__)
    add = parser.add_argument
    out_help = "where everything goes; must be new or empty"
    add(
        "--out",
        type=new_directory,
        default=Path("softpl_demo"),
        metavar="DIR",
        help=out_help,
    )
    add("--no-open", action="store_true", help="do not open the report in a browser")
    return parser


def run_command(template: str, out: Path) -> None:
    """Print a command of `softpl` and run it in this process.

    Raises:
        UserError: It did not succeed; it has said why.
    """
    words = [word.format(out=out, model=MODEL) for word in template.split()]
    print(f"\n$ softpl {shlex.join(words)}", flush=True)
    if status := COMMANDS[words[0]](words[1:]):
        raise UserError(f"softpl {words[0]} ended with status {status}")


def write_data(corpus: Path, out: Path) -> None:
    """Write the corpus's sets as Kaldi directories, and some utterances of dev."""
    for name in ("train-labeled", "train-unlabeled", "dev"):
        audio, texts = [], []
        for file in sorted((corpus / name).rglob("*.trans.txt")):
            lines = file.read_text("utf-8").splitlines()
            texts += lines
            ids = [line.partition(" ")[0] for line in lines]
            audio += [f"{key} {file.parent / key}.flac" for key in ids]
        _write_set(out / name, audio, texts)
    step = max(1, len(texts) // UTTERANCES)  # So that all voices are among them.
    _write_set(
        out / "dev-some", *(part[::step][:UTTERANCES] for part in (audio, texts))
    )


def _write_set(place: Path, audio: list[str], texts: list[str]) -> None:
    place.mkdir(parents=True)
    for name, lines in (("wav.scp", audio), ("text", texts)):
        (place / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")


def show_labels(truth: Path, *labels: Path) -> list[str]:
    """Print some transcripts below the true ones; return the CER of all, in percent.

    Args:
        truth: A Kaldi text file.
        labels: Others, with the same utterances.
    """
    with quick_imports():
        from espnet_softpl.commands.scoring import score
        from espnet_softpl.data.tables import read_scp
    true = read_scp(truth)
    said = [read_scp(file, empty=True) for file in labels]
    for key in list(true)[:SHOWN]:
        print(f"  spoken  {true[key].lower()}")
        for file, texts in zip(labels, said, strict=True):
            print(f"  {file.parent.name:<7} {texts[key].lower()}")
    references = list(true.values())
    return [str(score(references, [t[k] for k in true], "char")) for t in said]


def log_to(file: Path) -> None:
    """Log to a file, and show what a training says about pseudo-labels."""
    whole, shown = logging.FileHandler(file), logging.StreamHandler(sys.stdout)
    shown.setFormatter(logging.Formatter("%(message)s"))
    shown.addFilter(lambda record: _is_news(record.getMessage()))
    logging.basicConfig(
        level="INFO",
        format="%(asctime)s %(message)s",
        handlers=[whole, shown],
        force=True,
    )
    logging.captureWarnings(True)


def _is_news(message: str) -> bool:
    return bool(re.match(r"Pseudo-labeling is on|Epoch \d+ of", message))


def run(options: argparse.Namespace) -> list[str]:
    """Run all steps, and open the report; return lines to print.

    Raises:
        UserError: Something is in the way, or a step failed.
    """
    out = options.out
    for package, extra in NEEDED.items():
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"{package} is missing: pip install 'espnet_softpl[{extra}]'"
            )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out: {out} exists and is not an empty directory")
    out.mkdir(parents=True, exist_ok=True)
    log_to(out / "demo.log")
    run_command(MAKE, out)
    write_data(out / "corpus", out / "data")
    truth = out / "data" / "dev-some" / "text"
    labels = [out / when / "text" for when in ("before", "after")]
    run_command(BEFORE, out)
    show_labels(truth, *labels[:1])
    run_command(ADD, out)
    run_command(TRAIN, out)
    run_command(AFTER, out)
    before, after = show_labels(truth, *labels)
    print(f"CER of {UTTERANCES} unseen utterances: {before} % before, {after} % after")
    print("Fifty mini-batches are few. What a whole run gains: docs/study.md")
    run_command(REPORT, out)
    if not options.no_open and sys.stdout.isatty():
        webbrowser.open((out / "report" / "report.html").resolve().as_uri())
    return []


main = command(get_parser, run)


if __name__ == "__main__":
    main()
