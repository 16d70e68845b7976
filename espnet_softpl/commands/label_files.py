"""Pseudo-labels as files: progress that outlives a kill, and Kaldi's tables."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import atomic_write
from espnet_softpl.data.tables import write_lines

PROGRESS = ".progress"  # In the output directory: a line of settings, one per batch.
SUMMARY = "label.yaml"  # The same settings, and the counts; written last.
UNUSABLE = "unusable"
# Settings that say where something was; the checksums beside them are what counts.
PLACES = ("model", "wav_scp")

Record = dict[str, Any]


class Audio(NamedTuple):
    """The audio to label."""

    path: str  # Kaldi's wav.scp, or the like.
    kind: str  # ESPnet's type of what it lists.
    entries: dict[str, str]  # Value by utterance id, in the order of the file.
    lengths: dict[str, int]  # Samples by utterance id, of those that can be read.
    bad: dict[str, str]  # Reason by utterance id, of those that cannot.


class Progress:
    """The mini-batches that are labeled, by number, in a file that outlives a kill.

    Raises:
        UserError: The directory holds labels of other settings.
    """

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self._path = out / PROGRESS
        lines = self._path.read_bytes().splitlines(True) if self._path.exists() else []
        # What has no end of line was cut off by a kill.
        whole = [line.rstrip(b"\n") for line in lines if line.endswith(b"\n")]
        try:
            whole = [line.decode() for line in whole]
            told = list(map(json.loads, whole))
        except ValueError as error:
            raise UserError(f"{self._path} is damaged: {error}; remove it") from error
        if whole:
            check_settings(told[0], settings, self._path)
        with atomic_write(self._path) as stream:
            stream.writelines(f"{line}\n" for line in whole or [json.dumps(settings)])
        self.done: dict[int, list[Record]] = dict(told[1:])

    def add(self, number: int, records: list[Record]) -> None:
        """Store a mini-batch; it is on the disk when this returns."""
        with open(self._path, "ab") as file:
            file.write(json.dumps([number, records]).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.done[number] = records


def check_settings(theirs: Any, ours: dict[str, Any], path: Path) -> None:
    """Refuse labels of which a file says that they have other settings than ours."""
    theirs = theirs if isinstance(theirs, dict) else {}
    for key, value in ours.items():
        if key not in PLACES and theirs.get(key) != value:
            raise UserError(
                f"{path} is of labels with {key} {theirs.get(key)!r}, this run has "
                f"{value!r}; name another --out, or remove that directory"
            )


def write_labels(
    out: Path,
    audio: Audio,
    labels: dict[str, Record],
    settings: dict[str, Any],
    samples_per_hour: float,
) -> dict[str, Any]:
    """Write Kaldi's tables and, last, `label.yaml`; return the counts in it.

    `text` and `wav.scp` hold what is kept, `confidence` all that was labeled, `dropped`
    the rest with the reason, `label.yaml` how the labels were made, and counts.
    """
    reasons = {k: labels.get(k, {"reason": UNUSABLE})["reason"] for k in audio.entries}
    dropped = {key: reason for key, reason in reasons.items() if reason}
    kept = [key for key in reasons if key not in dropped]
    sure = [key for key, reason in reasons.items() if reason != UNUSABLE]
    write_lines(out / "text", {key: labels[key]["text"] for key in kept})
    write_lines(out / "wav.scp", {key: audio.entries[key] for key in kept})
    confidence = {key: f"{labels[key]['confidence']:.6f}" for key in sure}
    write_lines(out / "confidence", confidence)
    write_lines(out / "dropped", dropped)
    counts = {
        "utterances": len(reasons),
        "kept": len(kept),
        "hours": round(sum(audio.lengths.values()) / samples_per_hour, 4),
        "kept_hours": round(sum(map(audio.lengths.get, kept)) / samples_per_hour, 4),
        "dropped": dict(sorted(Counter(dropped.values()).items())),
    }
    with atomic_write(out / SUMMARY) as stream:
        yaml.safe_dump({**settings, **counts}, stream, sort_keys=False)
    return counts
