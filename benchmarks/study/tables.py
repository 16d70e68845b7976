"""Tables of the study, made from `runs.jsonl` alone.

    python benchmarks/study/tables.py commands_ar --against control hard_ctc
    python benchmarks/study/tables.py corpora
    python benchmarks/study/tables.py --write docs/study.md   # those that a page has

Systems are compared with `--against` on the test set, pair by pair: the same base
model, the same random seed. The interval is a bootstrap over utterances of the mean
over seeds. p is of an exact two-sided test over seeds, which flips the signs of their
differences.

In a page, a table stands between `<!-- study: ARGUMENTS -->` and `<!-- end -->`.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from run_grid import LINES, TESTED, UNITS, read_lines, select_lines  # noqa: E402

from espnet_softpl.commands.scoring import UNITS as TITLES  # noqa: E402
from espnet_softpl.commands.scoring import Comparison, compare_errors  # noqa: E402
from espnet_softpl.core.files import atomic_write  # noqa: E402

Line = Mapping[str, Any]
Lines = Mapping[tuple[str, int], Line]
TABLE = re.compile(r"(<!-- study: (.*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
# Where a page quotes no result: code, links, and the level of a test.
NO_RESULT = re.compile(
    r"```.*?```|`[^`]*`|\]\([^)]*\)|arXiv:[\d.]+|p < [\d.]+", re.DOTALL
)
NUMBER = re.compile(r"\d+\.\d+|\d+(?= %)")


def compare(
    lines: Lines, system: str, other: str, unit: str, part: str = "test"
) -> Comparison | None:
    """Compare two systems of a corpus.

    Args:
        lines: Those of one corpus, by system and seed.
        system: The one that should be better.
        other: What it is compared with.
        unit: `char` or `word`.
        part: A set of the corpus.

    Returns:
        None if they have no seed in common.
    """
    seeds = sorted(s for name, s in lines if name == system and (other, s) in lines)
    if not seeds or system == other:
        return None
    own, base = (
        [lines[name, s][part][f"{unit}_errors"] for s in seeds]
        for name in (system, other)
    )
    return compare_errors(own, base, lines[system, seeds[0]][part][f"{unit}s"])


def to_markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table whose first row is its head."""
    rows = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return [f"| {' | '.join(row)} |" for row in rows]


def _labels(own: Sequence[Line]) -> str:
    """Return the mean CER of the labels in the first and the last epoch."""
    curves = [line["pl_cer"] for line in own if "pl_cer" in line]
    if not curves:
        return "-"
    ends = [100 * np.mean([curve[end] for curve in curves]) for end in (0, -1)]
    return "{:.1f} to {:.1f}".format(*ends)


def _highest(own: Sequence[Line]) -> str:
    """Return the highest dev CER of an epoch, and that of the last one."""
    curves = [line["dev_cer_ctc"] for line in own]
    both = [[max(curve), curve[-1]] for curve in curves]
    return "{:.1f}, {:.1f}".format(*100 * np.mean(both, axis=0))


def _alarm(own: Sequence[Line]) -> str:
    """Return the mini-batch of the guard's first alarm, by seed."""
    return ", ".join(str(line["alarms"][0]) if line["alarms"] else "-" for line in own)


# Columns that a table may have beside its errors.
COLUMNS: dict[str, tuple[str, Callable[[Sequence[Line]], str]]] = {
    "labels": ("CER of the labels, first to last epoch", _labels),
    "highest": ("dev CER by epoch: highest, last", _highest),
    "alarm": ("first alarm at mini-batch", _alarm),
}


def make_table(
    lines: Lines,
    against: Sequence[str],
    part: str,
    units: Sequence[str],
    columns: Sequence[str] = (),
) -> list[str]:
    """Return the table of a corpus in Markdown, a row for each system.

    Args:
        lines: Those of the corpus, by system and seed.
        against: Systems that each is compared with, by the first of `units`.
        part: A set of the corpus.
        units: Of errors: `char`, `word`.
        columns: More columns, names in `COLUMNS`.
    """
    title = TITLES[units[0]]
    rows = [
        ["system", "seeds", *(f"{part} {TITLES[u]}" for u in units)]
        + [COLUMNS[name][0] for name in columns]
        + [f"{title} against {other}" for other in against]
    ]
    for system in dict.fromkeys(name for name, _ in lines):
        own = [line for (name, _), line in lines.items() if name == system]
        row = [system, str(len(own))]
        for unit in units:
            rates = [line[part][UNITS[unit]] for line in own]
            spread = f" ({min(rates):.1f} to {max(rates):.1f})" if len(own) > 1 else ""
            row.append(f"{np.mean(rates):.1f}{spread}")
        row += [COLUMNS[name][1](own) for name in columns]
        for other in against:
            row.append(str(compare(lines, system, other, units[0], part) or "-"))
        rows.append(row)
    return to_markdown(rows)


def corpus_table(lines: Sequence[Line]) -> list[str]:
    """Return the table of the corpora: minutes of audio, utterances that are scored."""
    parts = ("labeled", "unlabeled", "dev", "test")
    rows = [
        ["corpus", *(f"{part}, minutes" for part in parts), "dev and test utterances"]
    ]
    for line in {line["corpus"]: line for line in lines if "test" in line}.values():
        minutes = [f"{line['minutes'][part]:.1f}" for part in parts]
        scored = [str(line[part]["utterances"]) for part in ("dev", "test")]
        rows.append([line["corpus"], *minutes, " and ".join(scored)])
    return to_markdown(rows)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line, or what a page says of a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("corpus", nargs="?", help="a corpus, or `corpora` for the table of all")
    add("--against", nargs="*", default=["control"], help="systems to compare with")
    add("--only", nargs="+", help="systems, in this order (default: all)")
    add("--units", nargs="+", default=list(TITLES), choices=TITLES, help="of errors")
    add("--columns", nargs="+", default=[], choices=COLUMNS, help="more columns")
    add("--phase", default="final", help="as in run_grid.py")
    add("--decoding", default="decode", help="as in run_grid.py")
    add("--lines", type=Path, default=LINES, help="file of lines")
    add("--write", nargs="+", type=Path, help="pages whose tables to write")
    return parser.parse_args(argv)


def build(args: argparse.Namespace) -> list[str]:
    """Return the table that a command line asks for."""
    if args.corpus == "corpora":
        return corpus_table(read_lines(args.lines))
    wanted = {name: getattr(args, name) for name in ("corpus", "phase", "decoding")}
    runs = select_lines(args.lines, **wanted)
    lines = {(line["system"], line["seed"]): line for line in runs}
    if args.only:
        lines = {k: lines[k] for name in args.only for k in lines if k[0] == name}
    if not lines:
        sys.exit(f"error: {args.lines} has no run of {wanted}")
    part = "test" if args.phase in TESTED else "dev"
    return make_table(lines, args.against, part, args.units, args.columns)


def table_of(words: str) -> list[str]:
    """Return the table of a page, from what the page says of it."""
    return build(parse(shlex.split(words)))


def fill(page: str, make: Callable[[str], Sequence[str]]) -> str:
    """Return a page with its tables made again.

    Args:
        page: Its text.
        make: Makes the lines of a table from its arguments.
    """

    def again(found: re.Match[str]) -> str:
        table = "".join(line + "\n" for line in make(found[2]))
        return f"{found[1]}{table}{found[4]}"

    return TABLE.sub(again, page)


def strange_numbers(page: str) -> list[str]:
    """Return the results in a page's prose that none of its tables has.

    A result is a number with a decimal point, or a percentage.
    """
    known = {n for table in TABLE.finditer(page) for n in NUMBER.findall(table[3])}
    prose = NO_RESULT.sub(" ", TABLE.sub(" ", page))
    return [number for number in NUMBER.findall(prose) if number not in known]


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table, or write those of pages."""
    args = parse(argv)
    for path in args.write or []:
        page = fill(path.read_text("utf-8"), table_of)
        with atomic_write(path) as stream:
            stream.write(page)
    if not args.write:
        print("\n".join(build(args)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
