"""Refuse bad data before any work: what is wrong, where, and what to do."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence

from espnet_softpl.core.errors import UserError, name_some
from espnet_softpl.data.audio import (
    AUDIO_KINDS,
    READ_ERRORS,
    Header,
    guess_kind,
    is_command,
    read_header,
)
from espnet_softpl.data.tables import read_scp

DataSpec = Sequence[tuple[str, str, str]]


# Headers are read for this many files of a set; reading all of a thousand hours would
# take minutes on a network disk.
MAX_HEADERS = 500


HOW_TO_FORMAT = (
    "To make plain files of one channel and one rate: python -m "
    "espnet_softpl.bin.format_audio --source DIR --target NEW_DIR --fs HZ"
)


def speech_scp(specs: DataSpec, option: str) -> tuple[dict[str, str], str]:
    """Read the `speech` entry of a `*_data_path_and_name_and_type` option.

    Args:
        specs: Triples of path, name and type.
        option: The option's name, for messages.

    Returns:
        Value by utterance id, and the type (`sound` for audio files, `kaldi_ark` for
        archives of audio or features).

    Raises:
        UserError: There is no `speech`, its file is missing, malformed or empty, or an
            utterance is read from a command.
    """
    found = [(path, kind) for path, name, kind in specs if name == "speech"]
    if len(found) != 1:
        raise UserError(
            f"{option} must name exactly one file as 'speech', as in "
            f"dump/unlabeled/wav.scp,speech,sound; got {list(specs)}"
        )
    path, kind = found[0]
    try:
        entries = read_scp(path)
    except ValueError as error:
        raise UserError(f"{option}: {error}") from error
    if not entries:
        raise UserError(f"{option}: {path} is empty: there is nothing to learn from")
    commands = [key for key, value in entries.items() if is_command(value)]
    if commands:
        raise UserError(
            f"{option}: {path}: {len(commands)} utterances are read from commands "
            f"({commands[0]}: '{entries[commands[0]]}'). Training reads files only, "
            f"and hands nothing to a shell. {HOW_TO_FORMAT} --allow_pipes true"
        )
    return entries, kind


def shared_utterances(first: Mapping[str, str], second: Mapping[str, str]) -> set[str]:
    """Find utterances of the first set that are in the second too.

    Args:
        first: Audio by utterance id.
        second: Audio by utterance id.

    Returns:
        Ids of the first set whose id or audio occurs in the second.
    """
    audio = set(second.values())
    return {key for key, value in first.items() if key in second or value in audio}


def some_of(entries: Mapping[str, str], seed: int = 0) -> dict[str, str]:
    """Draw `MAX_HEADERS` entries, or return all where there are no more.

    Args:
        entries: Value by utterance id.
        seed: Of the choice.

    Returns:
        The chosen ones.
    """
    keys = sorted(entries)
    if len(keys) > MAX_HEADERS:
        keys = random.Random(seed).sample(keys, MAX_HEADERS)
    return {key: entries[key] for key in keys}


def read_some_headers(
    entries: Mapping[str, str], kind: str = "sound", seed: int = 0
) -> list[tuple[str, Header]]:
    """Read the headers of some entries of a set.

    Args:
        entries: File, or place in an archive, by utterance id.
        kind: ESPnet's type of the set; of one that is not among `AUDIO_KINDS` no
            header is read.
        seed: Of the choice of `MAX_HEADERS` entries.

    Returns:
        Entries and headers. Entries that cannot be opened are left out: they are the
        business of `scan_audio`.
    """
    found: list[tuple[str, Header]] = []
    for value in some_of(entries, seed).values() if kind in AUDIO_KINDS else ():
        try:
            found.append((value, read_header(value, kind)))
        except READ_ERRORS:
            continue
    return found


def check_sample_rates(
    sets: Mapping[str, Mapping[str, str]], kinds: Mapping[str, str] | None = None
) -> None:
    """Refuse audio of different sample rates, or levels.

    Args:
        sets: File, or place in an archive, by utterance id, by the name of the set.
        kinds: ESPnet's type by the name of the set; `sound` where none is given.

    Raises:
        UserError: Two entries differ, within a set or between two.
    """
    rates: dict[int, str] = {}
    levels: dict[bool, str] = {}
    for name, entries in sets.items():
        kind = (kinds or {}).get(name, "sound")
        for value, header in read_some_headers(entries, kind):
            if header.rate is None:
                continue
            where = f"{value} ({name})"
            rates.setdefault(header.rate, f"{where} has {header.rate} Hz")
            levels.setdefault(header.integers, where)
    if len(rates) > 1:
        raise UserError(
            f"sample rates differ: {'; '.join(rates.values())}. Resample one of them "
            f"(stage 4 of the recipe: --fs and --resample true). {HOW_TO_FORMAT} "
            f"--resample true"
        )
    if len(levels) > 1:
        raise UserError(
            f"levels differ: ESPnet reads {levels[True]} as whole numbers up to "
            f"32768, for it is WAV in Kaldi's archive, and {levels[False]} as numbers "
            f"in -1 to 1. Bring both into one form. {HOW_TO_FORMAT}"
        )


@dataclasses.dataclass(frozen=True)
class AudioScan:
    """What the headers of a set of audio files say.

    Attributes:
        samples: Length in samples (frames of features) by utterance id, of what can
            be used.
        bad: Reason by utterance id, of what cannot be read, is empty or has another
            shape.
    """

    samples: dict[str, int]
    bad: dict[str, str]


def scan_audio(
    entries: Mapping[str, str], kind: str = "sound", input_size: int | None = None
) -> AudioScan:
    """Read the length of every entry of a set from its header.

    Args:
        entries: File, or place in an archive, by utterance id.
        kind: ESPnet's type of the set, one of `AUDIO_KINDS`.
        input_size: Dimension of the features that the model takes; None where it
            takes audio.

    Returns:
        Lengths, and what cannot be used.
    """
    samples: dict[str, int] = {}
    bad: dict[str, str] = {}
    for key, value in entries.items():
        try:
            header = read_header(value, kind)
        except READ_ERRORS as error:
            hint = ""
            if kind != "kaldi_ark" and guess_kind(value) == "kaldi_ark":
                hint = f" (an entry of an archive needs the type kaldi_ark, not {kind})"
            bad[key] = f"{value}: {error}{hint}"
            continue
        reason = _misfit(header, input_size)
        # The header of a FLAC stream of unknown length says 2^63 - 1.
        if not 0 < header.length < 2**31:
            reason = f"{header.length or 'no'} samples by its header"
        if reason:
            bad[key] = f"{value}: {reason}"
        else:
            samples[key] = header.length
    return AudioScan(samples, bad)


def _misfit(header: Header, input_size: int | None) -> str | None:
    """Say why an entry has another shape than the model takes, or None."""
    if input_size is not None:
        if header.rate is None and header.shape == (input_size,):
            return None
        found = "audio"
        if header.rate is None:
            found = f"shape {(header.length, *header.shape)}"
        return f"{found}, where the model takes features of dimension {input_size}"
    if header.rate is None and header.shape:
        return (
            f"features of dimension {header.shape[0]}, where the model takes audio "
            f"(input_size is not set)"
        )
    if header.shape:
        return (
            f"{header.shape[0]} channels, where unlabeled audio must have one. "
            f"{HOW_TO_FORMAT} (it averages channels)"
        )
    return None


def check_bad_share(bad: Mapping[str, str], total: int, most: float, what: str) -> None:
    """Refuse a set of which too much is unusable.

    Args:
        bad: Reason by utterance id.
        total: Utterances of the set, usable or not.
        most: Largest share that may be unusable, in [0, 1].
        what: What is wrong with them, for the message.

    Raises:
        UserError: More than that share is.
    """
    if len(bad) > most * total:
        raise UserError(
            f"{len(bad)} of {total} utterances ({len(bad) / total:.1%}) {what}; at "
            f"most {most:.1%} may (pl_max_bad_share): {name_some(bad.values())}"
        )
