"""Word by word: labels against labels before and the truth; key by key: settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import kaldialign

GAP = "\0"  # No word has it.


UNSET = {None, "null", "[]", "{}"}  # What says nothing, as `flatten` writes it.


class Word(NamedTuple):
    """A word of a label, with what is to be seen of it.

    Attributes:
        text: The word.
        kind: `right`, `wrong` (another word is true), `extra` (none is), `missing`
            (it is true, and not in the label), `gone` (it was in the label before),
            or `plain` where the truth is not known.
        changed: Whether it was not so in the label before.
        truth: The true word in place of one that is wrong, else "".
    """

    text: str
    kind: str
    changed: bool = False
    truth: str = ""


def compare(label: str, truth: str | None, before: str | None) -> list[Word]:
    """Compare a label with the truth and with the label before it.

    Args:
        label: The label.
        truth: The true transcript, None where it is not known.
        before: The label before, None for the first one.

    Returns:
        The words of the label in order, and in their places those that are missing or
        gone.
    """
    words = label.split()
    kinds, missing = _against_truth(words, truth)
    changed, gone = _against_before(words, before)
    found: list[Word] = []
    for place in range(len(words) + 1):
        lost = list(gone[place])
        for word in missing[place]:
            just_lost = word in lost
            if just_lost:
                lost.remove(word)
            found.append(Word(word, "missing", just_lost))
        found += [Word(word, "gone", True) for word in lost]
        if place < len(words):
            kind, true = kinds[place]
            found.append(Word(words[place], kind, changed[place], true))
    return found


def _against_truth(
    words: Sequence[str], truth: str | None
) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """Return kind and true word of each word, and what is missing before each."""
    missing: list[list[str]] = [[] for _ in range(len(words) + 1)]
    if truth is None:
        return [("plain", "")] * len(words), missing
    kinds: list[tuple[str, str]] = []
    for true, word in kaldialign.align(truth.split(), list(words), GAP):
        if word == GAP:
            missing[len(kinds)].append(true)
        elif true == GAP:
            kinds.append(("extra", ""))
        else:
            kinds.append(("right", "") if true == word else ("wrong", true))
    return kinds, missing


def _against_before(
    words: Sequence[str], before: str | None
) -> tuple[list[bool], list[list[str]]]:
    """Tell which words are new, and which are gone before each word."""
    gone: list[list[str]] = [[] for _ in range(len(words) + 1)]
    if before is None:
        return [False] * len(words), gone
    changed: list[bool] = []
    for old, word in kaldialign.align(before.split(), list(words), GAP):
        if word == GAP:
            gone[len(changed)].append(old)
        else:
            if old not in (GAP, word):
                gone[len(changed)].append(old)
            changed.append(old != word)
    return changed, gone


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Turn nested settings into text by dotted key.

    Args:
        config: The settings.
        prefix: What the keys begin with.

    Returns:
        Values as JSON, those of nested mappings by `outer.inner`.
    """
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = json.dumps(value, ensure_ascii=False, default=str)
    return flat


def differing(configs: Sequence[Mapping[str, Any]]) -> dict[str, list[str | None]]:
    """List the settings in which configurations differ.

    Args:
        configs: Any number of configurations.

    Returns:
        Value in each configuration by dotted key, None where it has no such key;
        sorted by key. Not to be set, and to be set to nothing, is the same.
    """
    flats = [flatten(config) for config in configs]
    keys = sorted({key for flat in flats for key in flat})
    rows = {key: [flat.get(key) for flat in flats] for key in keys}
    return {
        key: row
        for key, row in rows.items()
        if len(set(row)) > 1 and not set(row) <= UNSET
    }
