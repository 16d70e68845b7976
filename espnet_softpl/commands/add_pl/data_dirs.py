"""Kaldi-style data directories as ESPnet's data options, their audio looked at."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from espnet_softpl.core import errors
from espnet_softpl.core.errors import UserError
from espnet_softpl.data import scan as data_scan
from espnet_softpl.data import tables
from espnet_softpl.data.tables import write_lines

# A file within a Kaldi archive, e.g. data/wav.ark:1234.
IN_ARCHIVE = re.compile(r"\.ark(\.gz)?:\d+$")


# Lengths that lie beside Kaldi archives: of ESPnet's and Kaldi's own tools.
LENGTHS = {"wav.scp": "utt2num_samples", "feats.scp": "feats_shape"}


@dataclasses.dataclass(frozen=True)
class Audio:
    """The audio of a set.

    Attributes:
        path: The script file.
        kind: ESPnet's type of it, `sound` or `kaldi_ark`.
        entries: Value by utterance id.
        lengths: Line by utterance id of a shape file; None where it is to be read from
            the audio.
        shape_file: The file that `lengths` come from.
    """

    path: Path
    kind: str
    entries: dict[str, str]
    lengths: dict[str, str] | None = None
    shape_file: Path | None = None

    def specs(self) -> list[list[str]]:
        """Return the value of ESPnet's `*_data_path_and_name_and_type`."""
        return [[str(self.path), "speech", self.kind]]


def find_audio(path: Path, features: bool) -> Audio:
    """Find the audio of a data directory.

    Args:
        path: A Kaldi-style directory, or a script file.
        features: True for a model that takes features (`input_size`) instead of audio.

    Returns:
        The audio.

    Raises:
        UserError: The file is missing, empty, or lists what ESPnet cannot read: pipes
            and recordings that a `segments` file cuts.
    """
    name = "feats.scp" if features else "wav.scp"
    file = path / name if path.is_dir() else path
    entries = tables.read_scp(file)
    if not entries:
        raise UserError(f"{file} is empty")
    if not features and (file.parent / "segments").is_file():
        raise UserError(
            f"{file.parent} has a file 'segments': its wav.scp lists recordings, not "
            f"utterances. Cut them first, and give the directory that is made. "
            f"{data_scan.HOW_TO_FORMAT}"
        )
    pipes = {key: value for key, value in entries.items() if value.endswith("|")}
    if pipes:
        raise UserError(
            f"{file}: {len(pipes)} entries are commands, which ESPnet's training "
            f"cannot read: {errors.name_some(pipes)}. Make files of them first. "
            f"{data_scan.HOW_TO_FORMAT} --allow_pipes true"
        )
    if not features and not IN_ARCHIVE.search(next(iter(entries.values()))):
        return Audio(file, "sound", entries)
    beside = file.with_name(LENGTHS[name])
    if beside.is_file():
        lengths = tables.read_scp(beside)
        missing = set(entries) - set(lengths)
        if missing:
            raise UserError(f"{beside} lacks {errors.name_some(missing)} of {file}")
        return Audio(file, "kaldi_ark", entries, lengths, beside)
    if features:
        raise UserError(
            f"{file} lists features, and their lengths are not known: there must be a "
            f"{LENGTHS[name]} beside it ('utterance-id frames,dimension'), as ESPnet's "
            f"recipes write"
        )
    return Audio(file, "kaldi_ark", entries)


def merge_audio(paths: Sequence[Path], features: bool, directory: Path) -> Audio:
    """Make one set of one or several.

    Args:
        paths: Data directories or script files.
        features: See `find_audio`.
        directory: Where the script file of several is written.

    Returns:
        The audio; that of a single path as it is.

    Raises:
        UserError: See `find_audio`; or sets of different types, or with an utterance id
            in common.
    """
    sets = [find_audio(path, features) for path in paths]
    if len(sets) == 1:
        return sets[0]
    kinds = {part.kind for part in sets}
    if len(kinds) > 1:
        raise UserError(
            f"--unlabeled: some of {', '.join(map(str, paths))} list audio files, some "
            f"Kaldi archives; give one sort"
        )
    entries: dict[str, str] = {}
    lengths: dict[str, str] = {}
    for part in sets:
        twice = set(entries) & set(part.entries)
        if twice:
            raise UserError(
                f"--unlabeled: {part.path} has utterance ids of another set: "
                f"{errors.name_some(twice)}. Ids must differ; prefix them"
            )
        entries.update(part.entries)
        lengths.update({k: v for k, v in (part.lengths or {}).items() if k in entries})
    merged = directory / sets[0].path.name
    write_lines(merged, entries)
    (kind,) = kinds
    if any(part.lengths is None for part in sets):
        return Audio(merged, kind, entries)
    shape_file = directory / "speech_shape"
    write_lines(shape_file, lengths)
    return Audio(merged, kind, entries, lengths, shape_file)


def check_format(audio: Audio, rate: int, what: str) -> None:
    """Refuse audio files of another sample rate, or with several channels.

    Args:
        audio: The set.
        rate: What the seed's front end takes, in Hz.
        what: What set it is, for the message.

    Raises:
        UserError: With an entry and what to do; or none can be read.
    """
    found = data_scan.read_some_headers(audio.entries, audio.kind)
    if not found:
        check_readable(audio, what)
    for value, header in found:
        if header.rate is None:
            raise UserError(f"{what}: {value} holds features, and the seed takes audio")
        if header.rate != rate:
            raise UserError(
                f"{what}: {value} has {header.rate} Hz, and the seed's front end takes "
                f"{rate} (frontend_conf.fs). Resample all of it. "
                f"{data_scan.HOW_TO_FORMAT} --resample true"
            )
        if header.integers:
            raise UserError(
                f"{what}: {value} is a WAV file within an archive, which ESPnet reads "
                f"as integers and cannot train on. {data_scan.HOW_TO_FORMAT}"
            )
        if header.shape:
            raise UserError(
                f"{what}: {value} has {header.shape[0]} channels, and pseudo-labeling "
                f"takes one; their mean is taken so. {data_scan.HOW_TO_FORMAT}"
            )


def check_readable(audio: Audio, what: str) -> None:
    """Refuse a labeled set of which a file, of those looked at, cannot be read.

    Args:
        audio: The set, of audio.
        what: What set it is, for the message.

    Raises:
        UserError: With some of the files.
    """
    scan = data_scan.scan_audio(data_scan.some_of(audio.entries), audio.kind)
    if scan.bad:
        raise UserError(
            f"{what}: {len(scan.bad)} of {len(scan.bad) + len(scan.samples)} files "
            f"that were tried, listed in {audio.path}, cannot be read: "
            f"{errors.name_some(scan.bad.values())}. Relative paths are meant from the "
            f"directory that the command is run in"
        )


def labeled_options(
    directory: Path,
    part: str,
    features: bool,
    shapes: Path,
    count_tokens: Callable[[str, str], int],
    vocabulary: int,
) -> dict[str, list]:
    """Make ESPnet's options of a labeled set from its data directory.

    The lengths that ESPnet's `--collect_stats` would find are written.

    Args:
        directory: With wav.scp (or feats.scp) and text.
        part: `train` or `valid`.
        features: See `find_audio`.
        shapes: Directory that `speech_shape` and `text_shape` are written to.
        count_tokens: Number of tokens of (utterance id, transcript).
        vocabulary: Size of the token list.

    Returns:
        `<part>_data_path_and_name_and_type` and `<part>_shape_file`.

    Raises:
        UserError: A file is missing, audio cannot be read, or utterances lack one of
            the two.
    """
    if not directory.is_dir():
        raise UserError(
            f"{directory}: no such directory; it must hold wav.scp and text"
        )
    audio = find_audio(directory, features)
    text = tables.read_scp(directory / "text")
    for one, name, other, where in (
        (audio.entries, "audio", text, "text"),
        (text, "a transcript", audio.entries, audio.path.name),
    ):
        lacking = set(one) - set(other)
        if lacking:
            raise UserError(
                f"{directory}: {len(lacking)} utterances have {name} and are not in "
                f"{where}: {errors.name_some(lacking)}"
            )
    lengths = audio.lengths
    if lengths is None:
        scan = data_scan.scan_audio(audio.entries, audio.kind)
        if scan.bad:
            raise UserError(
                f"{audio.path}: {len(scan.bad)} of {len(audio.entries)} files cannot "
                f"be read: {errors.name_some(scan.bad.values())}. Labeled audio must "
                "be whole"
            )
        lengths = {key: str(length) for key, length in scan.samples.items()}
    write_lines(shapes / "speech_shape", {k: lengths[k] for k in audio.entries})
    tokens = {k: f"{count_tokens(k, t)},{vocabulary}" for k, t in text.items()}
    write_lines(shapes / "text_shape", tokens)
    data = [*audio.specs(), [str(directory / "text"), "text", "text"]]
    files = [str(shapes / "speech_shape"), str(shapes / "text_shape")]
    return {f"{part}_data_path_and_name_and_type": data, f"{part}_shape_file": files}
