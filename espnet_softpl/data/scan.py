"""Which audio can be used, by headers and once it is decoded, and how to mend it."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple

import numpy as np

from espnet_softpl.core.errors import UserError, name_some
from espnet_softpl.data import audio as forms
from espnet_softpl.data.audio import AUDIO_KINDS, READ_ERRORS, Header, read_header
from espnet_softpl.data.tables import Table

DataSpec = Sequence[tuple[str, str, str]]

# Reading all headers of a thousand hours would take minutes on a network disk.
MAX_HEADERS = 500
# Headers are waited for, on a network disk, more than computed.
THREADS, PER_THREAD = 16, 64
# Decoders and resamplers go beyond 1 by a little; whole numbers go to 32768.
LOUDEST = 2.0
# Shape files that ESPnet's and Kaldi's tools put beside script files.
LENGTHS = {"wav.scp": "utt2num_samples", "feats.scp": "feats_shape"}
HOW_TO_FORMAT = (
    "To make plain files of one channel and one rate: python -m "
    "espnet_softpl.bin.format_audio --source DIR --target NEW_DIR --fs HZ"
)


class AudioScan(NamedTuple):
    """What the headers of a set of audio files say, by utterance id."""

    samples: dict[str, int]  # Samples, or frames of features, of what can be used.
    bad: dict[str, str]  # Why the others cannot.


def speech_scp(
    specs: DataSpec, option: str, read: Callable[[str], Table] = Table
) -> tuple[Table, str]:
    """Read the one `speech` of `*_data_path_and_name_and_type`, and its type."""
    speech = [(path, kind) for path, name, kind in specs if name == "speech"]
    if len(speech) != 1:
        raise UserError(
            f"{option} must name exactly one file as 'speech', as in "
            f"dump/unlabeled/wav.scp,speech,sound; got {list(specs)}"
        )
    path, kind = speech[0]
    try:
        entries = read(path)
    except ValueError as error:
        raise UserError(f"{option}: {error}") from error
    if not entries:
        raise UserError(f"{option}: {path} is empty: there is nothing to learn from")
    commands = [k for k, v in entries.pairs_with("|") if forms.is_command(v)]
    if commands:
        raise UserError(
            f"{option}: {path}: {len(commands)} utterances are read from commands "
            f"({commands[0]}: '{entries[commands[0]]}'). Training reads files only, "
            f"and hands nothing to a shell. {HOW_TO_FORMAT} --allow_pipes true"
        )
    return entries, kind


def shared_utterances(
    first: Mapping[str, str], *others: Mapping[str, str]
) -> list[set[str]]:
    """Find, for each other set, ids of the first that it has, or whose audio it has."""
    known = [(set(other), set(other.values())) for other in others]
    all_ids, all_audio = (set().union(*each) for each in zip(*known, strict=True))
    near = {k: v for k, v in first.items() if k in all_ids or v in all_audio}
    return [
        {key for key, value in near.items() if key in ids or value in audio}
        for ids, audio in known
    ]


def some_of(entries: Mapping[str, str]) -> dict[str, str]:
    """Draw `MAX_HEADERS` entries, the same ones each time, or return all of fewer."""
    count = len(entries)
    rows = random.Random(0).sample(range(count), min(count, MAX_HEADERS))
    if isinstance(entries, Table):  # Not to go through millions of lines.
        return dict(sorted((entries.id_at(n), entries.value_at(n)) for n in rows))
    pairs = list(entries.items())
    return dict(sorted(pairs[row] for row in rows))


def read_some_headers(
    entries: Mapping[str, str], kind: str = "sound"
) -> list[tuple[str, Header]]:
    """Return `some_of` the entries with their headers, except what cannot be read."""
    headers = []
    for value in some_of(entries).values() if kind in AUDIO_KINDS else ():
        with contextlib.suppress(*READ_ERRORS):
            headers.append((value, read_header(value, kind)))
    return headers


def check_sample_rates(
    sets: Mapping[str, Mapping[str, str]], kinds: Mapping[str, str] = {}
) -> None:
    """Refuse two sample rates or levels; `kinds` are ESPnet's, else `sound`."""
    rates: dict[int, str] = {}
    levels: dict[bool, str] = {}
    for name, entries in sets.items():
        for value, header in read_some_headers(entries, kinds.get(name, "sound")):
            if header.rate is not None:
                rates.setdefault(header.rate, f"{value} ({name}) has {header.rate} Hz")
                levels.setdefault(header.integers, f"{value} ({name})")
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


def lengths_beside(scp: str | Path) -> Path | None:
    """Find the shape file (`LENGTHS`) beside a script file."""
    name = LENGTHS.get(Path(scp).name)
    file = name and Path(scp).with_name(name)
    return file if file and file.is_file() else None


def scan_audio(
    entries: Mapping[str, str],
    kind: str = "sound",
    input_size: int | None = None,
    lengths: Mapping[str, int] | None = None,
) -> AudioScan:
    """Find the length of every entry of a set, by its header if it is not known.

    `input_size` is the dimension of the model's features; None if it takes audio. If
    `lengths` are those of all entries, only `some_of` the headers are read, and the
    others if one of them is bad.
    """
    if lengths and entries.keys() <= lengths.keys():
        if not scan_audio(some_of(entries), kind, input_size).bad:
            return AudioScan({key: lengths[key] for key in entries}, {})
    scan = AudioScan({}, {})
    items = iter(entries.items())

    def examine(item: tuple[str, str]) -> int | None:
        return _misfit_of(item[1], kind, input_size)[0]

    with ThreadPool(THREADS) as pool:
        # Not all at once: what waits for a thread takes memory.
        while some := list(itertools.islice(items, 4 * THREADS * PER_THREAD)):
            for (key, value), length in zip(some, pool.map(examine, some, PER_THREAD)):
                if length is not None:
                    scan.samples[key] = length
                    continue
                # Again, alone: libsndfile has one place for all threads' errors.
                reason = str(_misfit_of(value, kind, input_size)[1]).rstrip(".")
                scan.bad[key] = reason if value in reason else f"{value}: {reason}"
    return scan


def _misfit_of(
    value: str, kind: str, input_size: int | None
) -> tuple[int | None, str | None]:
    """Return an entry's length, or None and why a model cannot take it."""
    try:
        header = read_header(value, kind)
        reason = find_misfit(header, input_size)
    except READ_ERRORS as error:
        reason = str(error)
        if kind != "kaldi_ark" and forms.guess_kind(value) == "kaldi_ark":
            reason += f" (an archive's entry needs the type kaldi_ark, not {kind})"
    return (header.length, None) if reason is None else (None, reason)


def find_misfit(
    header: Header, input_size: int | None = None, rate: int | None = None
) -> str | None:
    """Say why a model cannot take audio or features, at a rate if given; or None."""
    # The header of a FLAC stream of unknown length says 2^63 - 1.
    if not 0 < header.length < 2**31:
        return f"{header.length or 'no'} samples by its header"
    if input_size is not None:
        if header.rate is None and header.shape == (input_size,):
            return None
        what = "audio" if header.rate else f"shape {(header.length, *header.shape)}"
        return f"{what}, but the model takes features of dimension {input_size}"
    if header.rate is None and (header.shape or rate):
        dim = f" of dimension {header.shape[0]}" if header.shape else ""
        return f"features{dim}, but the model takes audio (input_size is not set)"
    if rate and header.rate != rate:
        return (
            f"{header.rate} Hz, but the model takes {rate} Hz (frontend_conf.fs). "
            f"Resample all of it. {HOW_TO_FORMAT} --resample true"
        )
    if rate and header.integers:
        return (
            f"a WAV file within an archive, which ESPnet reads as integers and cannot "
            f"train on. {HOW_TO_FORMAT}"
        )
    if header.shape:
        return (
            f"{header.shape[0]} channels, but audio must have one. {HOW_TO_FORMAT} "
            f"(it averages channels)"
        )
    return None


def find_defect(
    audio: np.ndarray,
    min_samples: int = 1,
    sample_shape: tuple[int, ...] | None = None,
    loudest: float = math.inf,
) -> str | None:
    """Say what makes audio unusable, or None; `sample_shape` is what must follow N."""
    if len(audio) < min_samples:
        return f"{len(audio)} samples, but at least {min_samples} are needed"
    if sample_shape is not None and audio.shape[1:] != tuple(sample_shape):
        expected = ", ".join(("N", *map(str, sample_shape)))
        return f"shape {audio.shape}, but ({expected}) is expected"
    # One NaN makes both NaN; `isfinite` of all samples would take twice as long.
    peak = max(-float(audio.min()), float(audio.max())) if audio.size else 0.0
    if not math.isfinite(peak):
        return f"{(~np.isfinite(audio)).sum()} of {audio.size} samples are not finite"
    if peak > loudest:
        return (
            f"levels up to {peak:g}, but -1 to 1 is expected: whole numbers that "
            f"were stored as floats? Divide them by 32768"
        )
    return None


def check_bad_share(bad: Mapping[str, str], total: int, most: float, what: str) -> None:
    """Raise UserError if more than a share `most` of a set is in `bad`, for `what`."""
    if len(bad) > most * total:
        raise UserError(
            f"{len(bad)} of {total} utterances ({len(bad) / total:.1%}) {what}; at "
            f"most {most:.1%} may (pl_max_bad_share): {name_some(bad.values())}"
        )
