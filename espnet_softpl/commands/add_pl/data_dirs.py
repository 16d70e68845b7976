"""Kaldi-style data directories as ESPnet's data options, their audio looked at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from espnet_softpl.core.errors import UserError, name_some
from espnet_softpl.data import scan, tables
from espnet_softpl.data.audio import Header, guess_kind

# Lengths that lie beside Kaldi archives: of ESPnet's and Kaldi's own tools.
LENGTHS = {"wav.scp": "utt2num_samples", "feats.scp": "feats_shape"}


@dataclasses.dataclass(frozen=True)
class Audio:
    """The audio of a set.

    Attributes:
        path: The script file.
        kind: ESPnet's type of it, `sound` or `kaldi_ark`.
        entries: Value by utterance id.
        lengths: Line by utterance id of a shape file; None if it is to be read from
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
        lengths = tables.read_scp(beside)
        if missing := entries.keys() - lengths.keys():
            raise UserError(f"{beside} lacks {name_some(missing)} of {file}")
        return Audio(file, "kaldi_ark", entries, lengths, beside)
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

    Returns:
        The audio; that of a single path as it is.

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
    lengths: dict[str, str] = {}
    for part in sets:
        if twice := entries.keys() & part.entries.keys():
            raise UserError(
                f"--unlabeled: {part.path} has utterance ids of another set: "
                f"{name_some(twice)}. Ids must differ; prefix them"
            )
        entries |= part.entries
        lengths |= {k: v for k, v in (part.lengths or {}).items() if k in entries}
    merged = Audio(directory / sets[0].path.name, sets[0].kind, entries)
    tables.write_lines(merged.path, entries)
    if any(part.lengths is None for part in sets):
        return merged
    shape_file = directory / "speech_shape"
    tables.write_lines(shape_file, lengths)
    return dataclasses.replace(merged, lengths=lengths, shape_file=shape_file)


def _misfit(header: Header, rate: int) -> str | None:
    """Say why a training cannot take an audio file, or return None."""
    if header.rate is None:
        return "holds features, and the base model takes audio"
    if header.rate != rate:
        return (
            f"has {header.rate} Hz, and the base model's front end takes {rate} "
            f"(frontend_conf.fs). Resample all of it. {scan.HOW_TO_FORMAT} "
            f"--resample true"
        )
    if header.integers:
        return (
            f"is a WAV file within an archive, which ESPnet reads as integers and "
            f"cannot train on. {scan.HOW_TO_FORMAT}"
        )
    if header.shape:
        return (
            f"has {header.shape[0]} channels, and pseudo-labeling takes one; their "
            f"mean is taken so. {scan.HOW_TO_FORMAT}"
        )
    return None


def check_format(audio: Audio, rate: int, what: str) -> None:
    """Refuse audio of another sample rate or form, or if none can be read.

    Args:
        audio: The set.
        rate: What the base model's front end takes, in Hz.
        what: What set it is, for the message.

    Raises:
        UserError: With an entry and what to do.
    """
    headers = scan.read_some_headers(audio.entries, audio.kind)
    if not headers:
        check_readable(audio, what)
    for value, header in headers:
        if reason := _misfit(header, rate):
            raise UserError(f"{what}: {value} {reason}")


def check_readable(audio: Audio, what: str) -> None:
    """Refuse a set of audio of which a file, of those looked at, cannot be read.

    Args:
        audio: The set.
        what: What set it is, for the message.

    Raises:
        UserError: With some of the files.
    """
    tried = scan.some_of(audio.entries)
    bad = scan.scan_audio(tried, audio.kind).bad
    if bad:
        raise UserError(
            f"{what}: {len(bad)} of {len(tried)} files that were tried, listed in "
            f"{audio.path}, cannot be read: {name_some(bad.values())}. Relative paths "
            f"are meant from the directory that the command is run in"
        )


def _lengths_of(audio: Audio) -> Mapping[str, str]:
    """Return the lengths of labeled audio, of which all must be readable."""
    if audio.lengths is not None:
        return audio.lengths
    headers = scan.scan_audio(audio.entries, audio.kind)
    if headers.bad:
        raise UserError(
            f"{audio.path}: {len(headers.bad)} of {len(audio.entries)} files cannot be "
            f"read: {name_some(headers.bad.values())}. Labeled audio must be whole"
        )
    return {key: str(length) for key, length in headers.samples.items()}


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
    lengths = _lengths_of(audio)
    tokens = {k: f"{count_tokens(k, t)},{vocabulary}" for k, t in text.items()}
    files = [shapes / "speech_shape", shapes / "text_shape"]
    tables.write_lines(files[0], {key: lengths[key] for key in audio.entries})
    tables.write_lines(files[1], tokens)
    return {
        f"{part}_data_path_and_name_and_type": [
            *audio.specs(),
            [str(directory / "text"), "text", "text"],
        ],
        f"{part}_shape_file": [str(file) for file in files],
    }
