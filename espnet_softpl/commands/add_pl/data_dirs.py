"""Kaldi-style data directories as ESPnet's data options, their audio looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from espnet_softpl.core.errors import UserError, name_some
from espnet_softpl.data import scan, tables
from espnet_softpl.data.audio import guess_kind

# Lengths that lie beside Kaldi archives: of ESPnet's and Kaldi's own tools.
LENGTHS = {"wav.scp": "utt2num_samples", "feats.scp": "feats_shape"}


@dataclasses.dataclass(frozen=True)
class Audio:
    """The audio of a set.

    Attributes:
        path: The script file.
        kind: ESPnet's type of it, `sound` or `kaldi_ark`.
        entries: Value by utterance id.
        shape_file: Its lengths; None if they are to be read from the audio.
    """

    path: Path
    kind: str
    entries: dict[str, str]
    shape_file: Path | None = None

    def specs(self) -> list[list[str]]:
        """Return the value of ESPnet's `*_data_path_and_name_and_type`."""
        return [[str(self.path), "speech", self.kind]]

    def lengths(self) -> dict[str, str]:
        """Return the lines of a shape file by utterance id.

        Raises:
            UserError: There is no such file, and not all of the audio can be read.
        """
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
    """Find the audio of a data directory.

    Args:
        path: A Kaldi-style directory, or a script file.
        features: True for a model that takes features (`input_size`) instead of audio.
        option: The option that named it, for messages.

    Raises:
        UserError: The file is missing, empty, or lists what ESPnet cannot read: pipes
            and recordings that a `segments` file cuts.
    """
    name = "feats.scp" if features else "wav.scp"
    file = path / name if path.is_dir() else path
    if not features and (file.parent / "segments").is_file():
        raise UserError(
            f"{file.parent} has a file 'segments': its wav.scp lists recordings, not "
            f"utterances. Cut them first, and give the directory that is made. "
            f"{scan.HOW_TO_FORMAT}"
        )
    entries, _ = scan.speech_scp([(str(file), "speech", "sound")], option)
    if not features and guess_kind(next(iter(entries.values()))) != "kaldi_ark":
        return Audio(file, "sound", entries)
    beside = file.with_name(LENGTHS[name])
    if beside.is_file():
        if missing := entries.keys() - tables.read_scp(beside).keys():
            raise UserError(f"{beside} lacks {name_some(missing)} of {file}")
        return Audio(file, "kaldi_ark", entries, beside)
    if features:
        raise UserError(
            f"{file} lists features, and their lengths are not known: there must be a "
            f"{LENGTHS[name]} beside it ('utterance-id frames,dimension'), as ESPnet's "
            f"recipes write"
        )
    return Audio(file, "kaldi_ark", entries)


def merge_audio(paths: Sequence[Path], features: bool, directory: Path) -> Audio:
    """Make one unlabeled set of one or several.

    Args:
        paths: Data directories or script files.
        features: See `find_audio`.
        directory: Where the script file of several is written.

    Raises:
        UserError: See `find_audio`; or sets of different types, or with an utterance id
            in common.
    """
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
    return dataclasses.replace(merged, shape_file=shape_file)


def check_audio(audio: Audio, rate: int, what: str, whole: bool) -> None:
    """Refuse a set if files, of those looked at, are not what the base model takes.

    Args:
        audio: The set.
        rate: What the base model's front end takes, in Hz.
        what: What set it is, for the message.
        whole: Whether every file must be usable, or only some.

    Raises:
        UserError: With files and what to do.
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
        if header.rate is None:
            reason = "holds features, and the base model takes audio"
        elif header.rate != rate:
            reason = (
                f"has {header.rate} Hz, and the base model's front end takes {rate} "
                f"(frontend_conf.fs). Resample all of it. {scan.HOW_TO_FORMAT} "
                f"--resample true"
            )
        elif header.integers:
            reason = (
                f"is a WAV file within an archive, which ESPnet reads as integers and "
                f"cannot train on. {scan.HOW_TO_FORMAT}"
            )
        elif header.shape:
            reason = (
                f"has {header.shape[0]} channels, and pseudo-labeling takes one; their "
                f"mean is taken so. {scan.HOW_TO_FORMAT}"
            )
        else:
            continue
        raise UserError(f"{what}: {value} {reason}")


def labeled_options(
    directory: Path,
    part: str,
    features: bool,
    shapes: Path,
    count_tokens: Callable[[str, str], int],
    vocabulary: int,
) -> dict[str, list]:
    """Make ESPnet's options of a labeled set from its data directory.

    Args:
        directory: With wav.scp (or feats.scp) and text.
        part: `train` or `valid`.
        features: See `find_audio`.
        shapes: Directory to write `speech_shape` and `text_shape` to, the lengths that
            ESPnet's `--collect_stats` would find.
        count_tokens: Number of tokens of (utterance id, transcript).
        vocabulary: Size of the token list.

    Raises:
        UserError: A file is missing, audio cannot be read, or utterances lack one of
            the two.
    """
    if not directory.is_dir():
        raise UserError(
            f"{directory}: no such directory; it must hold wav.scp and text"
        )
    audio = find_audio(directory, features, str(directory))
    text = tables.read_scp(directory / "text")
    for ids, what, others, file in (
        (audio.entries, "audio", text, "text"),
        (text, "a transcript", audio.entries, audio.path.name),
    ):
        if lacking := ids.keys() - others.keys():
            raise UserError(
                f"{directory}: {len(lacking)} utterances have {what} and are not in "
                f"{file}: {name_some(lacking)}"
            )
    tokens = {k: f"{count_tokens(k, t)},{vocabulary}" for k, t in text.items()}
    files = [shapes / "speech_shape", shapes / "text_shape"]
    tables.write_lines(files[0], audio.lengths())
    tables.write_lines(files[1], tokens)
    return {
        f"{part}_data_path_and_name_and_type": [
            *audio.specs(),
            [str(directory / "text"), "text", "text"],
        ],
        f"{part}_shape_file": [str(file) for file in files],
    }
