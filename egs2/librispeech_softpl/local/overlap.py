"""Checks that labeled, unlabeled, dev and test data do not share utterances."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from pathlib import Path

from datadir import DataDir, RecipeError, examples

_HEAD_BYTES = 65536


def _digest(path: Path, size: int | None = None) -> str:
    """Return a digest of a file's first bytes (all of them where size is None)."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as stream:
        if size is not None:
            digest.update(stream.read(size))
        else:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def same_audio(first: dict[str, str], second: dict[str, str]) -> dict[str, str]:
    """Find audio files of one set whose content is also in another set.

    Only files of equal size are read, first their head, then the rest, so that a
    large corpus costs little more than one ``stat`` per file.

    Args:
        first: Audio path by utterance.
        second: Audio path by utterance; files that do not exist are ignored in both.

    Returns:
        Utterance of ``second`` by utterance of ``first``.
    """
    by_size: dict[int, list[tuple[str, Path]]] = defaultdict(list)
    for utterance, name in second.items():
        path = Path(name)
        if path.is_file():
            by_size[path.stat().st_size].append((utterance, path))
    heads: dict[Path, str] = {}
    found: dict[str, str] = {}
    for utterance, name in first.items():
        path = Path(name)
        rivals = by_size.get(path.stat().st_size, []) if path.is_file() else []
        for rival, rival_path in rivals:
            for candidate in (path, rival_path):
                if candidate not in heads:
                    heads[candidate] = _digest(candidate, _HEAD_BYTES)
            if heads[path] != heads[rival_path]:
                continue
            if _digest(path) == _digest(rival_path):
                found[utterance] = rival
                break
    return found


def shared_utterances(first: DataDir, second: DataDir) -> set[str]:
    """Return the utterances of ``first`` that are in ``second`` by name or content.

    Args:
        first: A data directory.
        second: Another one.
    """
    by_name = first.wav.keys() & second.wav.keys()
    return set(by_name) | set(same_audio(first.wav, second.wav))


def separate(parts: dict[str, DataDir]) -> list[str]:
    """Check the four parts against each other and drop labeled audio from unlabeled.

    Args:
        parts: Data directories ``labeled``, ``unlabeled``, ``dev`` and ``test``;
            ``unlabeled`` is replaced where utterances had to be dropped.

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
