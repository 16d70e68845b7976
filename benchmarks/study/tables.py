"""Tables of the study, made from `runs.jsonl` alone.

    python benchmarks/study/tables.py commands_ar

Systems are compared with `--against` on the test set, pair by pair: the same base
model, the same seed. The interval is a bootstrap over utterances of the mean over
seeds. p is of an exact two-sided test over seeds, which flips the signs of their
differences.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from run_grid import LINES, UNITS, read_lines  # noqa: E402

REPLICATIONS = 10_000
Lines = Mapping[tuple[str, int], Mapping[str, Any]]


class Comparison(NamedTuple):
    """How a system differs from another, in points of the error rate."""

    seeds: int  # That both have.
    difference: float  # Mean over seeds; negative if the system is better.
    low: float  # Ends of the 95 % interval.
    high: float
    p: float  # Exact, over seeds.


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of a mean that is 0 if signs are random.

    All 2^n choices of the signs are counted, so that n = 6 gives 2 / 64 at best.
    """
    values = np.asarray(differences)
    signs = np.array(list(itertools.product([1, -1], repeat=len(values))))
    means = np.abs(signs @ values)
    return float(np.mean(means >= abs(values.sum()) - 1e-12))


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
    if not seeds:
        return None
    changes = np.array(
        [
            np.subtract(
                *(lines[name, s][part][f"{unit}_errors"] for name in (system, other))
            )
            for s in seeds
        ]
    )  # (S, N), errors.
    length = lines[system, seeds[0]][part][f"{unit}s"]
    by_seed = 100.0 * changes.sum(axis=1) / length
    means = changes.mean(axis=0)
    drawn = np.random.default_rng(1).integers(
        len(means), size=(REPLICATIONS, len(means))
    )
    rates = 100.0 * means[drawn].sum(axis=1) / length
    low, high = np.percentile(rates, [2.5, 97.5])
    return Comparison(len(seeds), by_seed.mean(), low, high, sign_flip_p(by_seed))


def make_table(lines: Lines, against: str, part: str) -> list[str]:
    """Return the table of a corpus in Markdown, a row for each system."""
    units = {"char": "CER", "word": "WER"}
    head = ["system", "seeds", *(f"{part} {title}" for title in units.values())]
    head += [f"CER against {against}", "95 % interval", "p"]
    rows = [head, ["---"] * len(head)]
    for system in dict.fromkeys(name for name, _ in lines):
        own = [line[part] for (name, _), line in lines.items() if name == system]
        row = [system, str(len(own))]
        for unit in units:
            rates = [each[UNITS[unit]] for each in own]
            row.append(f"{np.mean(rates):.1f} ({min(rates):.1f} to {max(rates):.1f})")
        found = compare(lines, system, against, "char", part)
        if system == against or found is None:
            row += ["-"] * 3
        else:
            row += [f"{found.difference:+.2f}"]
            row += [f"{found.low:+.2f} to {found.high:+.2f}", f"{found.p:.3f}"]
        rows.append(row)
    return [f"| {' | '.join(row)} |" for row in rows]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table of a corpus."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpus")
    parser.add_argument("--against", default="control", help="system to compare with")
    parser.add_argument("--phase", default="final", help="as in run_grid.py")
    parser.add_argument("--decoding", default="decode", help="as in run_grid.py")
    parser.add_argument("--lines", type=Path, default=LINES, help="file of lines")
    args = parser.parse_args(argv)
    wanted = {"corpus": args.corpus, "phase": args.phase, "decoding": args.decoding}
    # The last line of a run counts.
    lines = {
        (line["system"], line["seed"]): line
        for line in read_lines(args.lines)
        if wanted.items() <= line.items()
    }
    if not lines:
        sys.exit(f"error: {args.lines} has no run of {wanted}")
    part = "test" if args.phase == "final" else "dev"
    print("\n".join(make_table(lines, args.against, part)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
