"""Labels over time, word by word: against the label before, and against the truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import kaldialign

from espnet_softpl.commands.scoring import to_units


class Word(NamedTuple):
    """A word of a label, with what is to be seen of it."""

    text: str
    # `right`, `wrong` (another word is true), `extra` (none is), `missing` (it is true,
    # and not in the label), `gone` (it was in the label before), or `plain` if the
    # truth is not known.
    kind: str
    changed: bool = False  # Whether it was not so in the label before.
    truth: str = ""  # The true word in place of one that is wrong.


def compare(label: str, truth: str | None, before: str | None) -> list[Word]:
    """Compare a label with the truth (None: not known) and with the label before it.

    Returns:
        The words of the label in order, and in their places those that are missing or
        gone.
    """
    words = label.split()
    # What is not known is compared as if it were the same.
    true, missing = _align(label if truth is None else truth, words)
    old, gone = _align(label if before is None else before, words)
    compared: list[Word] = []
    for place, word in enumerate([*words, None]):
        lost = gone[place]
        if word is not None and old[place] not in (None, word):
            lost.append(old[place])
        for absent in missing[place]:
            compared.append(Word(absent, "missing", absent in lost))
            if absent in lost:
                lost.remove(absent)
        compared += [Word(text, "gone", True) for text in lost]
        if word is None:
            break
        changed = old[place] != word
        if truth is None:
            compared.append(Word(word, "plain", changed))
        elif true[place] is None:
            compared.append(Word(word, "extra", changed))
        elif true[place] == word:
            compared.append(Word(word, "right", changed))
        else:
            compared.append(Word(word, "wrong", changed, true[place]))
    return compared


def _align(
    reference: str, words: Sequence[str]
) -> tuple[list[str | None], list[list[str]]]:
    """Return each word's partner in a reference, and words there without, by place.

    For "A B C" and ["A", "X"]: partners ["A", "B"], unmatched [[], [], ["C"]].
    """
    gap = "\0"  # No word has it.
    partners: list[str | None] = []
    unmatched: list[list[str]] = [[] for _ in range(len(words) + 1)]
    for expected, word in kaldialign.align(reference.split(), list(words), gap):
        if word == gap:
            unmatched[len(partners)].append(expected)
        else:
            partners.append(None if expected == gap else expected)
    return partners, unmatched


def thin(rows: Sequence[Any], most: int = 6) -> list[Any]:
    """Return at most so many rows (at least 2), evenly spaced, both ends included."""
    if len(rows) <= most:
        return list(rows)
    step = (len(rows) - 1) / (most - 1)
    return [rows[round(index * step)] for index in range(most)]


def error_rate(label: str, truth: str | None, unit: str = "word") -> float | None:
    """Return the error rate of a label in percent, None if the truth has no words."""
    reference, words = to_units(truth or "", unit), to_units(label, unit)
    if not reference:
        return None
    return 100.0 * kaldialign.edit_distance(reference, words)["total"] / len(reference)
