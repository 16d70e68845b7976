"""Kaldi-style directories of users: audio of any form becomes files of one channel."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

from espnet_softpl.core.errors import UserError, name_some
from espnet_softpl.core.files import atomic_file
from espnet_softpl.data import audio as forms
from espnet_softpl.data.audio import READ_ERRORS, header_of, open_audio
from espnet_softpl.data.scan import LOUDEST, find_defect
from espnet_softpl.data.tables import read_scp, write_table


class Cut(NamedTuple):
    """An utterance as a part of a recording."""

    utterance: str
    start: float = 0.0  # In seconds.
    end: float | None = None  # In seconds; None at the end of the recording.
    channel: int | None = None  # From 0; None for the mean of all.

    @property
    def whole(self) -> bool:
        """Whether it is all of its recording."""
        return self == Cut(self.utterance)


class Recording(NamedTuple):
    """An entry of wav.scp and the utterances in it."""

    value: str  # File, files, place in an archive, or command.
    kind: str  # ESPnet's type of it, or `pipe`.
    cuts: tuple[Cut, ...]  # The utterances, at least one.


def read_recordings(
    directory: str | Path, allow_pipes: bool = False
) -> list[Recording]:
    """Read and check the recordings with utterances, in the order of `wav.scp`."""
    scp, segments = Path(directory) / "wav.scp", Path(directory) / "segments"
    # A command that only copies a file is that file.
    wav = {key: forms.copied_file(v) or v for key, v in read_scp(scp).items()}
    if not wav:
        raise UserError(f"{scp} is empty")
    whole = {name: [Cut(name)] for name in wav}
    cuts = read_segments(segments, wav) if segments.exists() else whole
    for cut in itertools.chain(*cuts.values()):
        if "/" in cut.utterance:
            raise UserError(f"{scp}: utterance {cut.utterance} must not contain '/'")
    used = [(value, cuts[name]) for name, value in wav.items() if name in cuts]
    recordings = [Recording(value, _kind_of(value), tuple(of)) for value, of in used]
    pipes = [value for value, kind, _ in recordings if kind == "pipe"]
    if pipes and not allow_pipes:
        raise UserError(
            f"{scp}: {len(pipes)} entries are commands ('{pipes[0]}'), and a data "
            f"file must not run programs unasked. If you trust it: --allow_pipes true "
            f"(a shell runs each once)"
        )
    plain = [each for each in recordings if each.kind != "pipe"]
    files = set(itertools.chain(*(forms.files_of(r.value, r.kind) for r in plain)))
    if missing := [file for file in files if not Path(file).is_file()]:
        raise UserError(
            f"{len(missing)} of {len(files)} files in {scp} do not exist: "
            f"{name_some(missing)} (relative paths start at the current directory; a "
            f"path of several words is taken for several files)"
        )
    return recordings


def _kind_of(value: str) -> str:
    """Tell ESPnet's type of an entry, or `pipe`; a file's name may have spaces."""
    if forms.is_command(value):
        return "pipe"
    return "sound" if Path(value).is_file() else forms.guess_kind(value)


def read_segments(path: Path, recordings: Mapping[str, str]) -> dict[str, list[Cut]]:
    """Read `utterance recording start end [channel]`; an end of -1 is the last."""
    cuts: dict[str, list[Cut]] = {}
    for utterance, value in read_scp(path).items():
        name, *words = value.split()
        try:
            cuts.setdefault(name, []).append(_parse_cut(utterance, words))
        except ValueError as error:
            raise UserError(
                f"{path}: {utterance}: {value!r} is not 'recording start end "
                f"[channel]' with 0 <= start < end in seconds: {error}"
            ) from error
    if unknown := cuts.keys() - recordings.keys():
        count = sum(len(cuts[name]) for name in unknown)
        raise UserError(
            f"{path}: {count} utterances are cut out of recordings that wav.scp "
            f"does not have: {name_some(unknown)}"
        )
    if not cuts:
        raise UserError(f"{path} is empty")
    return cuts


def _parse_cut(utterance: str, words: list[str]) -> Cut:
    """Parse start, end and perhaps channel; ValueError if they are not allowed."""
    if len(words) not in (2, 3):
        raise ValueError(f"{len(words) + 2} columns")
    start, end = map(float, words[:2])
    if not (math.isfinite(start) and math.isfinite(end) and start >= 0.0):
        raise ValueError("not a time")
    if end != -1.0 and end <= start:
        raise ValueError("the end is not after the start")
    channel = int({"A": "0", "B": "1"}.get(words[2], words[2])) if words[2:] else None
    if channel is not None and channel < 0:
        raise ValueError("no channel")
    return Cut(utterance, start, None if end == -1.0 else end, channel)


class Job(NamedTuple):
    """What to do with one recording."""

    recording: Recording
    directory: str  # Where audio is written, as `<utterance>.flac`.
    rate: int | None = None  # Wanted sample rate in Hz; None for the recording's.
    resample: bool = False  # Whether another rate may be converted.


class Outcome(NamedTuple):
    """What became of one utterance."""

    utterance: str
    path: str = ""  # Audio to train on; none if it is bad, or of a wrong rate.
    samples: int = 0  # In that audio.
    channels: int = 0  # Of the source.
    rate: int = 0  # Of the source, in Hz.
    problem: str = ""  # Why the audio is unusable, if it is.
    written: bool = False  # Whether `path` was written, rather than used in place.


Mapper = Callable[[Callable[[Job], list[Outcome]], list[Job]], Iterable[list[Outcome]]]


def write_flac(path: str | Path, audio: np.ndarray, rate: int) -> None:
    """Write samples (N,), clipped to -1..1, as a whole file of 16-bit FLAC."""
    clipped = np.clip(audio, -1.0, 1.0)
    # libsndfile does not tell if the last bytes do not fit on a disk; the system does.
    encoded = io.BytesIO()
    soundfile.write(encoded, clipped, rate, format="FLAC", subtype="PCM_16")
    with atomic_file(path, durable=False) as temporary:
        temporary.write_bytes(encoded.getbuffer())


def _read(files: Sequence[soundfile.SoundFile], cut: Cut) -> np.ndarray:
    """Decode an utterance, (N, C); ValueError if its recording has no such part."""
    total, _, rate, _ = header_of(files)
    count = -1
    if not cut.whole:
        first = round(cut.start * rate)
        last = total if cut.end is None else round(cut.end * rate)
        # Half a second too much is cut off, as by Kaldi's extract-segments.
        if last > total + 0.5 * rate or first >= total:
            part = f"{cut.start} to {cut.end} s"
            raise ValueError(f"{part} of a recording of {total / rate:.2f} s")
        count = min(last, total) - first
        for file in files:
            file.seek(first)
    parts = [file.read(count, dtype="float32", always_2d=True) for file in files]
    audio = np.concatenate(parts, axis=1)
    if cut.channel is None:
        return audio
    if cut.channel >= audio.shape[1]:
        raise ValueError(f"channel {cut.channel} of {audio.shape[1]} (they begin at 0)")
    return audio[:, cut.channel : cut.channel + 1]


def format_recording(job: Job) -> list[Outcome]:
    """Decode the utterances of one recording and convert what must be."""
    value, kind, cuts = job.recording
    with ExitStack() as stack:
        try:
            files = stack.enter_context(open_audio(value, kind))
        except READ_ERRORS as error:
            problem = f"cannot be decoded: {error}"
            return [Outcome(cut.utterance, problem=problem) for cut in cuts]
        # An error in writing is none of the audio, and ends the command.
        return [_format_cut(files, cut, job) for cut in cuts]


def _format_cut(files: Sequence[soundfile.SoundFile], cut: Cut, job: Job) -> Outcome:
    """Decode and convert one utterance."""
    name, rate = cut.utterance, files[0].samplerate
    try:
        audio = _read(files, cut)
    except READ_ERRORS as error:
        return Outcome(name, problem=f"cannot be decoded: {error}")
    if defect := find_defect(audio, loudest=LOUDEST):
        return Outcome(name, problem=f"is unusable: {defect}")
    channels, wanted = audio.shape[1], job.rate or rate
    in_place = job.recording.kind == "sound" and cut.whole
    if in_place and rate == wanted and channels == 1:
        return Outcome(name, job.recording.value, len(audio), channels, rate)
    if rate != wanted and not job.resample:
        return Outcome(name, channels=channels, rate=rate)
    mono = audio.mean(axis=1)
    if rate != wanted:
        # Imported late: it takes a second in every process.
        from scipy.signal import resample_poly

        shared = math.gcd(rate, wanted)
        mono = resample_poly(mono, wanted // shared, rate // shared)
    target = str(Path(job.directory) / f"{name}.flac")
    write_flac(target, mono, wanted)
    return Outcome(name, target, len(mono), channels, rate, written=True)


def format_directory(
    source: Path,
    target: Path,
    rate: int,
    *,
    resample: bool = False,
    allow_pipes: bool = False,
    max_bad_share: float = 0.01,
    mapper: Mapper = map,
) -> list[str]:
    """Make a directory that ESPnet can train on from any Kaldi-style one.

    The options are those of `bin.format_audio`; `mapper` is `map`, or one that works in
    parallel and keeps the order. Returns lines for the user.
    """
    if target.resolve() == source.resolve():
        raise UserError(f"{target}: the target must be another directory")
    audio = str(target / "audio")
    recordings = read_recordings(source, allow_pipes)
    jobs = [Job(recording, audio, rate, resample) for recording in recordings]
    for rest in Path(audio).glob(".*.tmp"):  # Of a run that was killed.
        rest.unlink()
    outcomes = [item for items in mapper(format_recording, jobs) for item in items]
    check_rates(outcomes, rate)
    warning = list_bad(outcomes, max_bad_share, target / "bad_audio")
    good = {item.utterance: item for item in outcomes if item.path}
    write_table(target / "wav.scp", {key: item.path for key, item in good.items()})
    samples = {key: item.samples for key, item in good.items()}
    write_table(target / "utt2num_samples", samples)
    for name in ("text", "utt2spk"):
        if (source / name).exists():
            table = read_scp(source / name, empty=True)
            write_table(target / name, {k: v for k, v in table.items() if k in good})
    hours = sum(samples.values()) / rate / 3600
    written = sum(item.written for item in good.values())
    line = f"{target}: {len(good)} utterances, {hours:.2f} h; {written} files written"
    return [line] if warning is None else [f"warning: {warning}", line]


def check_rates(outcomes: Sequence[Outcome], rate: int) -> None:
    """Raise UserError if there is audio of another rate (Hz) that was not converted."""
    wrong = [item for item in outcomes if item.rate and not item.path]
    if wrong:
        first = wrong[0]
        raise UserError(
            f"{len(wrong)} of {len(outcomes)} files do not have the sample rate "
            f"{rate} Hz; {first.utterance} has {first.rate} Hz. Use --fs {first.rate} "
            f"if that is the rate of all data, or --resample true to convert"
        )


def list_bad(
    outcomes: Sequence[Outcome], max_bad_share: float, report: Path
) -> str | None:
    """List unusable audio in `report`, refuse too much of it; return a warning."""
    problems = {i.utterance: " ".join(i.problem.split()) for i in outcomes if i.problem}
    report.unlink(missing_ok=True)
    if not problems:
        return None
    write_table(report, problems)
    bad = f"{len(problems)} of {len(outcomes)} files are unusable"
    names = f"{bad}: {name_some(problems)}"
    if len(problems) > max_bad_share * len(outcomes):
        first, reason = next(iter(problems.items()))
        raise UserError(
            f"{names} ({first} {reason}); listed in {report}. More than "
            f"--max_bad_share {max_bad_share} of the set is not tolerated"
        )
    return f"{names}; left out, listed in {report}"
