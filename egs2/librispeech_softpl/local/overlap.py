"""Checks that labeled, unlabeled, dev and test data do not share utterances."""

from __future__ import annotations

import filecmp
import hashlib
from collections import defaultdict
from pathlib import Path

from datadir import DataDir, RecipeError, examples

_HEAD_BYTES = 65536


def _sizes(wav: dict[str, str]) -> dict[str, int]:
    """Return the size in bytes of the files that exist, by utterance."""
    paths = {utterance: Path(name) for utterance, name in wav.items()}
    return {utt: path.stat().st_size for utt, path in paths.items() if path.is_file()}


def _head(name: str) -> bytes:
    with open(name, "rb") as stream:
        return hashlib.blake2b(stream.read(_HEAD_BYTES), digest_size=16).digest()


def same_audio(first: dict[str, str], second: dict[str, str]) -> dict[str, str]:
    """Find audio files of one set whose content is also in another set.

    Only files of equal size are read, first their head, then the rest, so that a
    large corpus costs little more than one `stat` per file.

    Args:
        first: Audio path by utterance.
        second: Audio path by utterance; files that do not exist are ignored in both.

    Returns:
        Utterance of `second` by utterance of `first`.
    """
    ours, theirs = _sizes(first), _sizes(second)
    shared = {*ours.values()} & {*theirs.values()}
    rivals: dict[tuple[int, bytes], list[str]] = defaultdict(list)
    for utterance, size in theirs.items():
        if size in shared:
            rivals[size, _head(second[utterance])].append(utterance)
    same: dict[str, str] = {}
    for utterance, size in ours.items():
        if size not in shared:
            continue
        for rival in rivals.get((size, _head(first[utterance])), ()):
            if filecmp.cmp(first[utterance], second[rival], shallow=False):
                same[utterance] = rival
                break
    return same


def shared_utterances(first: DataDir, second: DataDir) -> set[str]:
    """Return the utterances of `first` that are in `second` by name or content."""
    by_name = first.wav.keys() & second.wav.keys()
    return {*by_name, *same_audio(first.wav, second.wav)}


def separate(parts: dict[str, DataDir]) -> list[str]:
    """Check the four parts against each other and drop labeled audio from unlabeled.

    Args:
        parts: Data directories `labeled`, `unlabeled`, `dev` and `test`; `unlabeled`
            is replaced if utterances had to be dropped.

    Returns:
        Warnings, one sentence each.

    Raises:
        RecipeError: A part is empty, or training data overlap with dev or test.
    """
    for name, part in parts.items():
        if not part:
            raise RecipeError(f"the {name} set has no utterances")
    for train in ("labeled", "unlabeled"):
        for held_out in ("dev", "test"):
            shared = shared_utterances(parts[train], parts[held_out])
            if shared:
                raise RecipeError(
                    f"{len(shared)} utterances of the {train} set are also in the "
                    f"{held_out} set, by name or by content: {examples(shared)}. "
                    f"Results on {held_out} would be worthless; choose other sets"
                )
    shared = shared_utterances(parts["unlabeled"], parts["labeled"])
    if not shared:
        return []
    keep = parts["unlabeled"].wav.keys() - shared
    if not keep:
        raise RecipeError("every unlabeled utterance is also in the labeled set")
    parts["unlabeled"] = parts["unlabeled"].subset(keep)
    return [
        f"{len(shared)} unlabeled utterances are also in the labeled set and were "
        f"dropped from the unlabeled one: {examples(shared)}"
    ]
