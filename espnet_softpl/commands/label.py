"""Pseudo-labels of a whole set as files, by an ESPnet model, outside of a training.

They are those that a training makes of the same audio with the same weights.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from espnet2.layers.create_adapter import create_adapter
from espnet2.train.dataset import ESPnetDataset
from torch.utils.data import DataLoader
from tqdm import tqdm

from espnet_softpl import filters
from espnet_softpl.commands.experiment import Experiment, Weights, open_experiment
from espnet_softpl.core.errors import UserError, refusing
from espnet_softpl.core.files import atomic_write, read_yaml
from espnet_softpl.core.modules import check_structure, evaluating
from espnet_softpl.data import scan, tables
from espnet_softpl.data.usable_audio import UsableAudio, UsableShare, smallest_input
from espnet_softpl.labels.confidence import utterance_confidence
from espnet_softpl.teacher import Teacher
from espnet_softpl.teacher.generator import PseudoLabelGenerator
from espnet_softpl.training.build import build_to_text
from espnet_softpl.training.checks import check_filters
from espnet_softpl.training.config import build_filters
from espnet_softpl.training.lengths import sample_rate
from espnet_softpl.training.model import SoftPLModel, frames_of
from espnet_softpl.training.task import SoftPLTask

logger = logging.getLogger(__name__)

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

    def of(self, keys: set[str]) -> Audio:
        """Return the audio of some utterances, in the order of the whole."""
        columns = (self.entries, self.lengths, self.bad)
        parts = ({k: v for k, v in column.items() if k in keys} for column in columns)
        return Audio(self.path, self.kind, *parts)


class Progress:
    """The mini-batches that are labeled, by number, in a file that outlives a kill."""

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
    theirs = {"precision": "float32", **theirs}  # What earlier versions had.
    for key, value in ours.items():
        if key not in PLACES and theirs.get(key) != value:
            raise UserError(
                f"{path} is of labels with {key} {theirs.get(key)!r}, this run has "
                f"{value!r}; name another --out, or remove that directory"
            )


@dataclasses.dataclass(frozen=True)
class Labeler:
    """A model that labels, and what it needs."""

    model: SoftPLModel  # In eval mode.
    args: argparse.Namespace  # ESPnet's options that it was trained with.
    judges: Sequence[tuple[str, filters.Filter]]  # Which labels are kept, in order.
    to_text: Callable[[list[int]], str]  # Turns token ids into a transcript.

    def __call__(self, batch: Mapping[str, torch.Tensor]) -> list[Record]:
        """Label `speech` (B, N) with `speech_lengths` (B,) and `usable` (B, 1).

        Of each utterance it returns `text`, `confidence` (the geometric mean of the
        best posterior over the frames that say something, as the filter `confidence`
        has it) and `reason`: the filter that dropped it, `unusable`, or None.
        """
        speech, lengths = batch["speech"], batch["speech_lengths"]
        generator = PseudoLabelGenerator(Teacher())
        label = generator(self.model, speech, lengths)
        confidence = utterance_confidence(label.log_probs, label.lengths)  # (B,)
        usable = (batch["usable"].reshape(-1) > 0) & confidence.isfinite()
        label = label._replace(weight=label.weight * usable)
        candidate = filters.Candidate(
            label=label,
            speech_lengths=lengths,
            labeled_tokens_per_sample=math.nan,
            relabel=lambda: generator(self.model, speech, lengths, dropout=True),
        )
        _, reason = filters.apply(self.judges, candidate)
        names = [*(name for name, _ in self.judges), UNUSABLE]
        columns = (label.tokens, label.token_lengths, confidence, reason)
        return [
            {
                "text": " ".join(self.to_text(tokens[:count]).split()),
                "confidence": sure if math.isfinite(sure) else 0.0,
                "reason": None if why == filters.base.KEPT else names[why],
            }
            for tokens, count, sure, why in zip(*(c.tolist() for c in columns))
        ]


def build_labeler(
    experiment: Experiment,
    weights: Weights,
    judges: Sequence[tuple[str, filters.Filter]],
) -> Labeler:
    """Build the model of an experiment on the CPU, to label with."""
    experiment.check_files()
    config = experiment.place_files(experiment.config, lambda f: str(f.resolve()))
    args = argparse.Namespace(**{"model": "espnet", **config})
    if args.model != "espnet" or args.model_conf.get("ctc_weight", 0.5) == 0.0:
        raise UserError(
            f"{experiment.directory}: labels come from the CTC head of model: espnet "
            f"with ctc_weight in (0, 1]; this is {args.model!r} with {args.model_conf}"
        )
    with refusing(f"{experiment.directory}/config.yaml: the model cannot be built"):
        to_text = build_to_text(args)
        model = SoftPLTask.build_student(args)
        wanted = model.state_dict()
        if getattr(args, "use_adapter", False):
            create_adapter(model, args.adapter, args.adapter_conf)
            wanted = {n: v for n, v in model.state_dict().items() if n in weights.state}
    check_structure(weights.state, wanted, f"the weights of {weights.source}")
    model.load_state_dict(weights.state, strict=False)
    for name, judge in judges:
        if judge.needs_rate or judge.needs_labeled:
            reason = "learns from the labeled data of a training; there are none here"
            raise UserError(f"pl_filter: {name} as it is set {reason}")
    check_filters(judges, model, math.nan)
    return Labeler(model.eval(), args, judges, to_text)


def batches_of(lengths: Mapping[str, int], batch_bins: int) -> list[list[str]]:
    """Sort utterances into mini-batches of like lengths, the longest first.

    So memory runs out at once or never. `batch_bins` are the most samples in one,
    padding included; a longer utterance is one of its own.
    """
    batches: list[list[str]] = []
    longest = 0
    for key in sorted(lengths, key=lambda key: (-lengths[key], key)):
        if not batches or (len(batches[-1]) + 1) * longest > batch_bins:
            batches.append([])
            longest = max(lengths[key], 1)
        batches[-1].append(key)
    return batches


def read_audio(path: str, kind: str, shape_file: str | Path | None, rate: int) -> Audio:
    """Read which audio of ESPnet's type `kind` there is, and how long it is.

    Lengths are from the shape file, or from the headers if it is None.
    """
    table, _ = scan.speech_scp([(path, "speech", kind)], "--wav_scp")
    entries = dict(table.items())
    for file, header in scan.read_some_headers(entries, kind):
        if kind == "sound" and header.rate != rate:
            raise UserError(
                f"{file} has {header.rate} Hz, the model wants {rate} Hz; resample it. "
                f"{scan.HOW_TO_FORMAT} --resample true"
            )
    if shape_file is not None:
        known = tables.read_lengths(shape_file)
        lengths = {key: known[key] for key in entries if key in known}
        bad = {k: f"{k}: not in {shape_file}" for k in entries if k not in known}
        return Audio(path, kind, entries, lengths, bad)
    if kind != "sound":
        raise UserError(
            f"--shape_file must be given for data of type {kind!r}; lengths can be "
            f"read from the files only for 'sound'"
        )
    headers = scan.scan_audio(entries)
    return Audio(path, kind, entries, headers.samples, headers.bad)


def _load(
    labeler: Labeler, audio: Audio, batches: Sequence[list[str]], num_workers: int
) -> DataLoader:
    """Read mini-batches as a training does, silence in the place of bad audio."""
    args = labeler.args
    fewest, sample_shape = 1, (args.input_size,)
    if args.input_size is None:
        sample_shape = ()
        with evaluating(labeler.model) as model:
            fewest = smallest_input(lambda n: frames_of(model, n), 64000)
    preprocess = SoftPLTask.build_preprocess_fn(args, train=False)
    dataset = UsableAudio(
        ESPnetDataset([(audio.path, "speech", audio.kind)], preprocess=preprocess),
        audio.lengths,
        min_samples=fewest,
        sample_shape=sample_shape,
        sample_rate=sample_rate(args),
    )
    collate = SoftPLTask.build_collate_fn(args, train=False)
    return DataLoader(
        dataset, batch_sampler=batches, collate_fn=collate, num_workers=num_workers
    )


def label_set(
    labeler: Labeler,
    audio: Audio,
    settings: dict[str, Any],
    args: argparse.Namespace,
    shard: int = 0,
) -> dict[str, Any]:
    """Label a shard of a set, or what is left of it; write the labels, return counts.

    A shard has every `num_shards`-th mini-batch of the whole set, so its labels, bit
    for bit, and every such utterance of what cannot be read. Labels are a function of
    the settings: those of a run that was killed and begun again are those of one that
    was not. A shard refuses no more unusable audio than the whole set may have; then,
    and if `--out` holds other labels, it raises a UserError.
    """
    out = out_of(args, shard)
    summary = out / SUMMARY
    if summary.exists():
        written = read_yaml(summary)
        check_settings(written, settings, summary)
        return {key: written[key] for key in written if key not in settings}
    total, most = len(audio.entries), args.pl_max_bad_share
    scan.check_bad_share(audio.bad, total, most, "cannot be read")
    for key, reason in sorted(audio.bad.items()):
        logger.warning("Utterance %s is left out: %s", key, reason)
    progress = Progress(out, settings)
    every = slice(shard, None, args.num_shards)
    whole = list(enumerate(batches_of(audio.lengths, args.batch_bins)))
    batches, unreadable = dict(whole[every]), audio.bad
    audio = audio.of({*sorted(unreadable)[every], *itertools.chain(*batches.values())})
    todo = {n: ids for n, ids in batches.items() if n not in progress.done}
    share = UsableShare(most)
    loader = _load(labeler, audio, list(todo.values()), args.num_workers)
    device, half = "cuda" if args.ngpu else "cpu", args.precision != "float32"
    mixed = torch.autocast(device, getattr(torch, args.precision), enabled=half)
    labeler.model.to(device)
    bar = tqdm(loader, initial=len(progress.done), total=len(batches), unit="batch")
    for (ids, batch), number in zip(bar, todo):
        share.count(ids, batch["usable"])
        torch.manual_seed(args.seed + number)
        with mixed:
            records = labeler({key: value.to(device) for key, value in batch.items()})
        progress.add(number, [{"id": k, **r} for k, r in zip(ids, records)])
    labels = {r["id"]: r for records in progress.done.values() for r in records}
    bad = {k: k for k, r in labels.items() if r["reason"] == UNUSABLE}
    scan.check_bad_share({**unreadable, **bad}, total, most, "cannot be used")
    hour = 3600.0 * sample_rate(labeler.args)
    counts = write_labels(out, audio, labels, settings, hour)
    (out / PROGRESS).unlink()
    return counts


def write_labels(
    out: Path,
    audio: Audio,
    labels: dict[str, Record],
    settings: dict[str, Any],
    samples_per_hour: float,
) -> dict[str, Any]:
    """Write Kaldi's tables and, last, `label.yaml`; return the counts in it."""
    reasons = {k: labels.get(k, {"reason": UNUSABLE})["reason"] for k in audio.entries}
    dropped = {key: reason for key, reason in reasons.items() if reason}
    kept = [key for key in reasons if key not in dropped]
    sure = [key for key, reason in reasons.items() if reason != UNUSABLE]
    tables.write_lines(out / "text", {key: labels[key]["text"] for key in kept})
    tables.write_lines(out / "wav.scp", {key: audio.entries[key] for key in kept})
    confidence = {key: f"{labels[key]['confidence']:.6f}" for key in sure}
    tables.write_lines(out / "confidence", confidence)
    tables.write_lines(out / "dropped", dropped)
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


def out_of(args: argparse.Namespace, shard: int) -> Path:
    """Return where the labels of a shard go."""
    if args.num_shards == 1:
        return args.out
    digits = len(str(args.num_shards - 1))  # `cat shard*` takes them in order.
    return args.out / f"shard{shard:0{digits}d}of{args.num_shards}"


def run(args: argparse.Namespace) -> list[str]:
    """Label as the options of `bin.label` say; return a line for each shard."""
    shards = range(args.num_shards) if args.shard is None else args.shard
    if wrong := [shard for shard in shards if shard >= args.num_shards]:
        raise UserError(
            f"--shard: {wrong[0]} is not in 0 to {args.num_shards - 1}, the shards of "
            f"--num_shards {args.num_shards}"
        )
    if args.ngpu and not torch.cuda.is_available():
        raise UserError("--ngpu 1: torch finds no GPU here; use --ngpu 0")
    judges = build_filters(args)
    with open_experiment(args.asr_exp, args.out) as experiment:
        weights = experiment.weights(args.which, args.student, args.weight)
        labeler = build_labeler(experiment, weights, judges)
    rate = sample_rate(labeler.args)
    audio = read_audio(str(args.wav_scp), args.data_type, args.shape_file, rate)
    digest = hashlib.sha256()
    for name, value in weights.state.items():
        digest.update(name.encode())
        digest.update(value.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    settings = {
        "model": weights.source,
        "sha256_of_model": digest.hexdigest(),
        "wav_scp": str(args.wav_scp),
        "sha256_of_wav_scp": hashlib.sha256(Path(audio.path).read_bytes()).hexdigest(),
        "data_type": args.data_type,
        "pl_filter": list(args.pl_filter),
        "pl_filter_conf": dict(args.pl_filter_conf),
        "batch_bins": args.batch_bins,
        "precision": args.precision,
        "seed": args.seed,
    }
    lines = []
    for shard in shards:
        of = {} if args.num_shards == 1 else {"shard": f"{shard} of {args.num_shards}"}
        counts = label_set(labeler, audio, {**settings, **of}, args, shard)
        lost = ", ".join(f"{n} {reason}" for reason, n in counts["dropped"].items())
        lines.append(
            f"{out_of(args, shard)}: {counts['kept']} of {counts['utterances']} "
            f"utterances kept, {counts['kept_hours']} of {counts['hours']} hours; "
            f"dropped: {lost or 'none'}"
        )
    return lines
