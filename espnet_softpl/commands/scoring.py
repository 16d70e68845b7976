"""Error rates with bootstrap confidence intervals, and systems compared by them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import kaldialign
import numpy as np
from numpy.typing import ArrayLike

from espnet_softpl.core.errors import UserError, name_some
from espnet_softpl.data.tables import read_scp

REPLICATIONS = 10_000
UNITS = {"char": "CER", "word": "WER"}

# Score by unit, by set.
Scores = Mapping[str, Mapping[str, "Score"]]


@dataclass(frozen=True)
class Score:
    """Errors of one system on one set, counted in words or characters."""

    reference: int  # Words or characters of the references.
    substitutions: int
    deletions: int
    insertions: int
    low: float  # Ends of the 95 % confidence interval of the error rate, in percent.
    high: float
    errors: tuple[int, ...] = field(default=(), repr=False)  # Of each utterance.

    @property
    def rate(self) -> float:
        """Error rate in percent."""
        errors = self.substitutions + self.deletions + self.insertions
        return 100.0 * errors / self.reference

    def __str__(self) -> str:
        return f"{self.rate:.1f} ±{(self.high - self.low) / 2:.1f}"


class Comparison(NamedTuple):
    """How a system differs from another, in points of the error rate."""

    seeds: int  # That both have.
    difference: float  # Mean over seeds; negative if the system is better.
    relative: float  # The same in percent of the other's mean.
    low: float  # Ends of the 95 % interval of the difference.
    high: float
    p: float  # Exact, over seeds.
    p_paired: float  # Two-sided, of the bootstrap over utterances.

    def __str__(self) -> str:
        sure = f"{self.low:+.2f} to {self.high:+.2f}, p {self.p:.3f}"
        return f"{self.difference:+.2f} ({self.relative:+.0f} %; {sure})"


def sign_flip_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of a mean that is 0 if signs are random.

    All 2^n choices of the signs are counted, so that n = 6 gives 2 / 64 at best.
    """
    values = np.asarray(differences)
    signs = np.array(list(itertools.product([1, -1], repeat=len(values))))
    means = np.abs(signs @ values)
    return float(np.mean(means >= abs(values.sum()) - 1e-12))


def compare_errors(own: ArrayLike, other: ArrayLike, length: int) -> Comparison:
    """Compare the errors of two systems on the same utterances, seed by seed.

    They are (S, N), by seed and utterance; `length` has the references' words or
    characters. Utterances are resampled 10 000 times, of both systems the same ones.
    """
    own, other = np.asarray(own), np.asarray(other)
    changes = own - other
    means = changes.mean(axis=0)
    draw = np.random.default_rng(1)
    # In parts: all numbers of 5000 utterances at once would take 400 MB.
    sums = [
        means[draw.integers(len(means), size=(100, len(means)))].sum(axis=1)
        for _ in range(REPLICATIONS // 100)
    ]
    rates = 100.0 * np.concatenate(sums) / length
    low, high = np.percentile(rates, [2.5, 97.5])
    by_seed = 100.0 * changes.sum(axis=1) / length
    errors = other.sum()
    relative = 100.0 * changes.sum() / errors if errors else np.nan
    # One more than were drawn: a p of 0 is beyond so many draws.
    tail = min(np.sum(rates <= 0.0), np.sum(rates >= 0.0)) + 1.0
    return Comparison(
        *(len(own), by_seed.mean(), relative, low, high),
        *(sign_flip_p(by_seed), min(1.0, 2.0 * tail / (REPLICATIONS + 1))),
    )


def to_units(text: str, unit: str) -> list[str]:
    """Split a transcript into `word`, or `char`: a space between words is one too."""
    words = text.split()
    return words if unit == "word" else list(" ".join(words))


def score(references: list[str], hypotheses: list[str], unit: str) -> Score:
    """Compare hypotheses with references in the same order, by `word` or `char`.

    Utterances are resampled 10 000 times for the interval, from a seed: the same errors
    give the same interval. References without any words are refused.
    """
    refs = [to_units(text, unit) for text in references]
    hyps = [to_units(text, unit) for text in hypotheses]
    counts = [kaldialign.edit_distance(*pair) for pair in zip(refs, hyps, strict=True)]
    if not any(refs):
        raise UserError("the references to score against have no words")
    interval = kaldialign.bootstrap_wer_ci(
        refs, hyps, replications=REPLICATIONS, seed=1
    )
    return Score(
        sum(map(len, refs)),
        *(sum(count[name] for count in counts) for name in ("sub", "del", "ins")),
        low=100.0 * interval["ci95min"],
        high=100.0 * interval["ci95max"],
        errors=tuple(count["total"] for count in counts),
    )


def load_references(org: Path) -> dict[str, dict[str, str]]:
    """Read the transcripts that systems are scored against, by utterance, by set.

    In `org/dev` and `org/test` there is `text`, and `utt2set`, which tells the sets of
    a part from each other. A part with one set is called `dev` or `test`; the sets of a
    part with several keep their own names.
    """
    sets: dict[str, dict[str, str]] = {}
    for part in ("dev", "test"):
        texts = read_scp(org / part / "text", empty=True)
        set_of = read_scp(org / part / "utt2set", empty=True)
        names = sorted(set(set_of.values()))
        for name in names:
            sets[part if len(names) == 1 else name] = {
                key: text for key, text in texts.items() if set_of.get(key) == name
            }
    return sets


def score_sets(
    sets: dict[str, dict[str, str]], hypotheses: dict[str, str]
) -> dict[str, dict[str, Score]]:
    """Score what one system recognized: by unit (`char` and `word`), by set."""
    scores: dict[str, dict[str, Score]] = {}
    for name, references in sets.items():
        if missing := references.keys() - hypotheses.keys():
            raise UserError(
                f"{len(missing)} utterances of {name} were not decoded: "
                f"{name_some(missing)}"
            )
        keys = sorted(references)  # So that errors of two systems stand side by side.
        refs, hyps = [references[k] for k in keys], [hypotheses[k] for k in keys]
        scores[name] = {unit: score(refs, hyps, unit) for unit in UNITS}
    return scores
