"""Kaldi-style data directories as ESPnet's data options, their audio looked at."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from espnet_softpl.commands.add_pl.base_model import token_counter
from espnet_softpl.core.errors import UserError, name_some
from espnet_softpl.data import scan, tables
from espnet_softpl.data.audio import READ_ERRORS, guess_kind, open_audio

MOST_LEVELS = 20  # Utterances of a set whose level is measured.


class Audio(NamedTuple):
    """The audio of a set."""

    path: Path  # The script file.
    kind: str  # ESPnet's type of it, `sound` or `kaldi_ark`.
    entries: dict[str, str]  # Value by utterance id.
    shape_file: Path | None = None  # Its lengths; None reads them from the audio.

    def specs(self) -> list[list[str]]:
        """Return the value of ESPnet's `*_data_path_and_name_and_type`."""
        return [[str(self.path), "speech", self.kind]]

    def lengths(self) -> dict[str, str]:
        """Return the lines of a shape file by utterance id, or refuse bad audio."""
        if self.shape_file is not None:
            known = tables.read_scp(self.shape_file)
            return {key: known[key] for key in self.entries}
        headers = scan.scan_audio(self.entries, self.kind)
        if headers.bad:
            raise UserError(
                f"{self.path}: {len(headers.bad)} of {len(self.entries)} files cannot "
                f"be read: {name_some(headers.bad.values())}. Labeled audio must be "
                f"whole"
            )
        return {key: str(length) for key, length in headers.samples.items()}


def find_audio(path: Path, features: bool, option: str) -> Audio:
    """Find the audio, or `features`, of a data directory or script file."""
    name = "feats.scp" if features else "wav.scp"
    file = path / name if path.is_dir() else path
    if not features and (file.parent / "segments").is_file():
        raise UserError(
            f"{file.parent} has a file 'segments': its wav.scp lists recordings, not "
            f"utterances. Cut them first. {scan.HOW_TO_FORMAT}"
        )
    table, _ = scan.speech_scp([(str(file), "speech", "sound")], option)
    entries = dict(table.items())
    if not features and guess_kind(next(iter(entries.values()))) != "kaldi_ark":
        return Audio(file, "sound", entries)
    beside = file.with_name(scan.LENGTHS[name])
    if beside.is_file():
        if missing := entries.keys() - tables.read_scp(beside).keys():
            raise UserError(f"{beside} lacks {name_some(missing)} of {file}")
    elif features:
        raise UserError(
            f"{file} lists features: there must be a {beside.name} beside it, with "
            f"their lengths as ESPnet writes them ('utterance-id frames,dimension')"
        )
    return Audio(file, "kaldi_ark", entries, beside if beside.is_file() else None)


def merge_audio(paths: Sequence[Path], features: bool, directory: Path) -> Audio:
    """Make one unlabeled set; `directory` gets the script file of several."""
    sets = [find_audio(path, features, "--unlabeled") for path in paths]
    if len(sets) == 1:
        return sets[0]
    if len({part.kind for part in sets}) > 1:
        raise UserError(
            f"--unlabeled: some of {', '.join(map(str, paths))} list audio files, some "
            f"Kaldi archives; give one sort"
        )
    entries: dict[str, str] = {}
    for part in sets:
        if twice := entries.keys() & part.entries.keys():
            raise UserError(
                f"--unlabeled: {part.path} has utterance ids of another set: "
                f"{name_some(twice)}. Ids must differ; prefix them"
            )
        entries |= part.entries
    merged = Audio(directory / sets[0].path.name, sets[0].kind, entries)
    tables.write_lines(merged.path, entries)
    if any(part.shape_file is None for part in sets):
        return merged
    shape_file = directory / "speech_shape"
    lengths = {key: n for part in sets for key, n in part.lengths().items()}
    tables.write_lines(shape_file, lengths)
    return merged._replace(shape_file=shape_file)


def check_audio(audio: Audio, rate: int, what: str, whole: bool) -> None:
    """Refuse a set, by its name, if the base model cannot take files looked at.

    Its front end takes `rate` Hz. Every file must be usable if `whole`, else some.
    """
    headers = scan.read_some_headers(audio.entries, audio.kind)
    tried = scan.some_of(audio.entries)
    bad = scan.scan_audio(tried, audio.kind).bad if whole or not headers else {}
    if bad:
        raise UserError(
            f"{what}: {len(bad)} of {len(tried)} files that were tried, listed in "
            f"{audio.path}, cannot be used: {name_some(bad.values())}. Relative paths "
            f"are meant from the directory that the command is run in"
        )
    for value, header in headers:
        # Of unlabeled audio, a training leaves out a few empty files.
        if reason := scan.find_misfit(header._replace(length=1), rate=rate):
            raise UserError(f"{what}: {value}: {reason}")


def level(audio: Audio) -> float:
    """Return the median RMS level of a few utterances in dB of full scale, else NaN.

    They are the same ones each time, at most a million samples of each.
    """
    values, powers = list(scan.some_of(audio.entries).values()), []
    for value in random.Random(0).sample(values, min(len(values), MOST_LEVELS)):
        with contextlib.suppress(*READ_ERRORS), open_audio(value, audio.kind) as files:
            samples = np.concatenate([file.read(10**6).ravel() for file in files])
            powers.append(np.square(samples).sum() / max(samples.size, 1))
    return 10 * math.log10(max(np.median(powers), 1e-12)) if powers else math.nan


def labeled_options(
    directory: Path,
    part: str,
    base: Mapping[str, Any],
    staging: Path,
) -> dict[str, list]:
    """Make ESPnet's options of a labeled set from its data directory.

    The directory has wav.scp (or feats.scp) and text. The lengths that ESPnet's
    `--collect_stats` would find are written to `PART/speech_shape` and `text_shape` of
    the staging directory, where PART is `train` or `valid`.
    """
    features = base.get("input_size") is not None
    audio = find_audio(directory, features, str(directory))
    text = tables.read_scp(directory / "text", empty=True)
    for ids, what, others, file in (
        (audio.entries, "audio", text, "text"),
        (text, "a transcript", audio.entries, audio.path.name),
    ):
        if lacking := ids.keys() - others.keys():
            raise UserError(
                f"{directory}: {len(lacking)} utterances have {what} and are not in "
                f"{file}: {name_some(lacking)}"
            )
    count, size = token_counter(base), len(base["token_list"])
    tokens = {key: f"{count(key, words)},{size}" for key, words in text.items()}
    files = [staging / part / "speech_shape", staging / part / "text_shape"]
    tables.write_lines(files[0], audio.lengths())
    tables.write_lines(files[1], tokens)
    specs = [*audio.specs(), [str(directory / "text"), "text", "text"]]
    return {
        f"{part}_data_path_and_name_and_type": specs,
        f"{part}_shape_file": [str(file) for file in files],
    }
