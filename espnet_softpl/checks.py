"""Refuse bad data before any work: what is wrong, where, and what to do."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import soundfile
import yaml

DataSpec = Sequence[tuple[str, str, str]]

# Headers are read for this many files of a set; reading all of a thousand hours would
# take minutes on a network disk.
MAX_HEADERS = 500


class UserError(ValueError):
    """Input that only its owner can mend; commands show it without a traceback."""


class CollapseError(RuntimeError):
    """The guard ended a training whose pseudo-labels collapse; exit status 3."""


def read_scp(path: str | Path) -> dict[str, str]:
    """Read a Kaldi script file.

    Args:
        path: Lines of `utterance-id value`.

    Returns:
        Value by utterance id.

    Raises:
        UserError: The file is missing, a line has no value, or an id occurs twice.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist")
    entries: dict[str, str] = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.strip().split(maxsplit=1)
            if len(fields) != 2:
                raise UserError(f"{path}:{number}: not 'utterance-id value': {line!r}")
            if fields[0] in entries:
                raise UserError(f"{path}:{number}: {fields[0]!r} occurs twice")
            entries[fields[0]] = fields[1]
    return entries


def read_lengths(path: str | Path) -> dict[str, int]:
    """Read the first dimension from an ESPnet shape file.

    Args:
        path: Lines of `utterance-id length[,dimension]`.

    Returns:
        Length by utterance id.

    Raises:
        UserError: The file is missing or malformed.
    """
    try:
        return {k: int(v.split(",")[0]) for k, v in read_scp(path).items()}
    except ValueError as error:
        raise UserError(f"not a shape file: {error}") from error


def speech_scp(specs: DataSpec, option: str) -> tuple[dict[str, str], str]:
    """Read the `speech` entry of a `*_data_path_and_name_and_type` option.

    Args:
        specs: Triples of path, name and type.
        option: The option's name, for messages.

    Returns:
        Value by utterance id, and the type (`sound` for audio files).

    Raises:
        UserError: There is no `speech`, or its file is missing, malformed or empty.
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
    return entries, kind


def name_some(items: Iterable[str], most: int = 3) -> str:
    """Show a few of many, sorted, for a message."""
    listed = sorted(items)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


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


def audio_formats(
    entries: Mapping[str, str], seed: int = 0
) -> dict[tuple[int, int], str]:
    """Read sample rates and channels of a set from the headers of some of its files.

    Args:
        entries: Audio file by utterance id.
        seed: Of the choice of `MAX_HEADERS` files.

    Returns:
        One file per sample rate (Hz) and number of channels found. Files that cannot
        be opened are left out: they are the business of `AudioScan`.
    """
    formats: dict[tuple[int, int], str] = {}
    for file in some_of(entries, seed).values():
        try:
            info = soundfile.info(file)
        except (OSError, soundfile.SoundFileError):
            continue
        formats.setdefault((info.samplerate, info.channels), file)
    return formats


def sample_rates(entries: Mapping[str, str], seed: int = 0) -> dict[int, str]:
    """Read the sample rates of a set; see `audio_formats`.

    Args:
        entries: Audio file by utterance id.
        seed: Of the choice of `MAX_HEADERS` files.

    Returns:
        One file per rate (Hz) found.
    """
    rates: dict[int, str] = {}
    for (rate, _), file in audio_formats(entries, seed).items():
        rates.setdefault(rate, file)
    return rates


def check_sample_rates(sets: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse audio of different sample rates.

    Args:
        sets: Audio file by utterance id, by the name of the set.

    Raises:
        UserError: Two files differ, within a set or between two.
    """
    seen: dict[int, str] = {}
    for name, entries in sets.items():
        for rate, file in sample_rates(entries).items():
            seen.setdefault(rate, f"{file} ({name}) has {rate} Hz")
    if len(seen) > 1:
        raise UserError(
            f"sample rates differ: {'; '.join(seen.values())}. Resample one of them "
            f"(stage 4 of the recipe: --fs and --resample true)."
        )


@dataclasses.dataclass(frozen=True)
class AudioScan:
    """What the headers of a set of audio files say.

    Attributes:
        samples: Length in samples by utterance id, of the files that can be read.
        bad: Reason by utterance id, of those that cannot, or are empty.
    """

    samples: dict[str, int]
    bad: dict[str, str]


def scan_audio(entries: Mapping[str, str]) -> AudioScan:
    """Read the length of every audio file of a set from its header.

    Args:
        entries: Audio file by utterance id.

    Returns:
        Lengths, and what cannot be read.
    """
    samples: dict[str, int] = {}
    bad: dict[str, str] = {}
    for key, file in entries.items():
        try:
            frames = soundfile.info(file).frames
        except (OSError, soundfile.SoundFileError) as error:
            bad[key] = f"{file}: {error}"
            continue
        # The header of a FLAC stream of unknown length says 2^63 - 1.
        if 0 < frames < 2**31:
            samples[key] = frames
        else:
            bad[key] = f"{file}: {frames or 'no'} samples by its header"
    return AudioScan(samples, bad)


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


def check_seed_tokens(init_param: Sequence[str], token_list: Sequence[str]) -> None:
    """Refuse a seed model that was trained with another token list.

    Args:
        init_param: ESPnet's `--init_param` values, `file[:source:target:excluded]`.
        token_list: The tokens of this run.

    Raises:
        UserError: A seed's file is missing, or the `config.yaml` beside it has other
            tokens.
    """
    for param in init_param:
        file = Path(param.split(":")[0])
        if not file.exists():
            raise UserError(f"init_param: {file} does not exist")
        config = file.parent / "config.yaml"
        if not config.exists():
            continue
        with open(config, encoding="utf-8") as stream:
            theirs = (yaml.safe_load(stream) or {}).get("token_list")
        if not isinstance(theirs, list) or theirs == list(token_list):
            continue
        pairs = enumerate(zip(theirs, token_list))
        where = next((f" from id {i} on" for i, (a, b) in pairs if a != b), "")
        raise UserError(
            f"token_list: {len(token_list)} tokens that differ{where} from the "
            f"{len(theirs)} of the seed model ({config}). Use the seed's token list."
        )
