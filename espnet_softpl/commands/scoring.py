"""Word and character error rates with bootstrap confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import kaldialign

from espnet_softpl.core.errors import UserError, name_some
from espnet_softpl.data.tables import read_scp


@dataclass(frozen=True)
class Score:
    """Errors of one system on one set, counted in words or characters."""

    reference: int  # Words or characters of the references.
    substitutions: int
    deletions: int
    insertions: int
    low: float  # Ends of the 95 % confidence interval of the error rate, in percent.
    high: float

    @property
    def rate(self) -> float:
        """Error rate in percent."""
        errors = self.substitutions + self.deletions + self.insertions
        return 100.0 * errors / self.reference


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
    counts = kaldialign.batch_error_rate(refs, hyps)
    if not counts["ref_len"]:
        raise UserError("the references to score against have no words")
    interval = kaldialign.bootstrap_wer_ci(refs, hyps, replications=10000, seed=1)
    return Score(
        *(int(counts[name]) for name in ("ref_len", "sub", "del", "ins")),
        low=100.0 * interval["ci95min"],
        high=100.0 * interval["ci95max"],
    )


def load_references(org: Path) -> dict[str, dict[str, str]]:
    """Read the transcripts that systems are scored against, by utterance, by set.

    In `org/dev` and `org/test` there is `text`, and `utt2set`, which tells the sets of
    a part from each other. A part with one set is called `dev` or `test`; the sets of a
    part with several keep their own names.

    Raises:
        UserError: A file is missing or malformed.
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
    """Score what one system recognized: by unit (`char` and `word`), by set.

    Raises:
        UserError: An utterance was not decoded.
    """
    scores: dict[str, dict[str, Score]] = {}
    for name, references in sets.items():
        if missing := references.keys() - hypotheses.keys():
            raise UserError(
                f"{len(missing)} utterances of {name} were not decoded: "
                f"{name_some(missing)}"
            )
        refs, hyps = list(references.values()), [hypotheses[key] for key in references]
        scores[name] = {unit: score(refs, hyps, unit) for unit in ("char", "word")}
    return scores
