"""Lengths of utterances, from ESPnet's options and shape files."""

from __future__ import annotations

import argparse
import itertools
import logging
from collections.abc import Mapping
from pathlib import Path

import humanfriendly
import numpy as np

from espnet_softpl.core.errors import UserError, name_some
from espnet_softpl.core.files import atomic_write
from espnet_softpl.core.modules import evaluating
from espnet_softpl.data import scan
from espnet_softpl.data.tables import kept_lengths, kept_table, read_lengths
from espnet_softpl.data.usable_audio import smallest_input
from espnet_softpl.monitors.statistics import LENGTH_RATIO
from espnet_softpl.training.keys import UNLABELED_DATA
from espnet_softpl.training.model import SoftPLModel, frames_of
from espnet_softpl.training.resume.layout import has_states

logger = logging.getLogger(__name__)

# How many times longer than the median an utterance is told of (our choice).
LONG = 10


def labeled_lengths(
    args: argparse.Namespace,
) -> tuple[dict[str, int], dict[str, int]] | None:
    """Read tokens and samples of the labeled utterances, by id, from the shape files.

    None, with a warning, if `train_shape_file` does not name both.
    """
    lengths = {
        what: read_lengths(path)
        for path in reversed(args.train_shape_file)
        for what in ("text", "speech")
        if Path(path).name.startswith(f"{what}_shape")
    }
    if not lengths.get("text") or not lengths.get("speech"):
        logger.warning(
            "%s is not known: it needs train_shape_file to name speech_shape and "
            "text_shape, as --collect_stats writes them",
            LENGTH_RATIO.name,
        )
        return None
    _warn_of_long(args, lengths["speech"], "labeled")
    return lengths["text"], lengths["speech"]


def _counts(lengths: Mapping[str, int]) -> np.ndarray:
    return np.fromiter(lengths.values(), np.int64, len(lengths))


def _warn_of_long(
    args: argparse.Namespace, lengths: Mapping[str, int], kind: str
) -> None:
    """Name utterances so long among the others that memory may not do for them."""
    counts = _counts(lengths)
    most = LONG * float(np.median(counts)) if counts.size else 0
    unit, per_unit = "s", sample_rate(args)
    if args.input_size is not None:
        unit, per_unit = "frames", 1
    if (is_long := counts > most).any():
        long = list(itertools.compress(lengths.items(), is_long))
        long.sort(key=lambda item: item[1], reverse=True)
        named = [f"{key}: {count / per_unit:.0f} {unit}" for key, count in long[:3]]
        logger.warning(
            "%d %s utterances are more than %d times longer than the median (%.1f %s), "
            "and memory grows with the square of it: %s. Cut or leave them out",
            *(len(long), kind, LONG, most / LONG / per_unit, unit, ", ".join(named)),
        )


def sample_rate(args: argparse.Namespace) -> int:
    """Return the sample rate of the front end in Hz; ESPnet takes "16k" as well."""
    rate = (args.frontend_conf or {}).get("fs", 16000)
    return humanfriendly.parse_size(rate) if isinstance(rate, str) else int(rate)


def unlabeled_lengths(args: argparse.Namespace) -> Mapping[str, int]:
    """Return samples (frames of features) of the unlabeled utterances by id.

    They stand in shape files, or are read from headers. Files that are unreadable,
    empty or of another shape than the model takes are left out, or refused if they are
    more than `pl_max_bad_share`.
    """
    if len(files := args.unlabeled_shape_file) == 1:
        return kept_lengths(files[0])
    if files:
        return {key: n for path in files for key, n in read_lengths(path).items()}
    specs = getattr(args, UNLABELED_DATA)
    entries, kind = scan.speech_scp(specs, UNLABELED_DATA, kept_table)
    path = next(path for path, name, _ in specs if name == "speech")
    beside = scan.lengths_beside(path) if kind == "kaldi_ark" else None
    known = read_lengths(beside) if beside else None
    lengths, bad = scan.scan_audio(entries, kind, args.input_size, known)
    _leave_out(bad, len(entries), args.pl_max_bad_share, "cannot be used")
    if known is None:
        logger.info(
            "To save reading headers in another run on the same data, give it "
            "--unlabeled_shape_file %s",
            usable_shape_file(args),
        )
    return lengths


def _leave_out(bad: dict[str, str], total: int, most: float, what: str) -> None:
    """Name unusable utterances in the log, or refuse them if they are too many."""
    scan.check_bad_share(bad, total, most, what)
    if bad:
        named = name_some(bad.values(), most=len(bad))
        said = "%d unlabeled utterances are left out, for they %s: %s"
        logger.warning(said, len(bad), what, named)


def write_usable(args: argparse.Namespace, model: SoftPLModel) -> None:
    """Write the lengths of the unlabeled utterances that the model can take.

    Those too short for a frame are left out, or refused if they are more than
    `pl_max_bad_share`. So is a resumed run that lacks some that it began with.
    """
    file = usable_shape_file(args)
    # An attempt that saved nothing binds nobody.
    if args.resume and file.exists() and has_states(file.parent):
        # Audio that has gone bad since must not change the mini-batches.
        specs = getattr(args, UNLABELED_DATA)
        entries, _ = scan.speech_scp(specs, UNLABELED_DATA, kept_table)
        if missing := entries.lacks(kept_lengths(file)):
            raise UserError(
                f"cannot resume: {len(missing)} unlabeled utterances that the run "
                f"began with ({file}) are not in {UNLABELED_DATA} any more: "
                f"{name_some(missing)}. Start again in a new --output_dir."
            )
        return
    lengths, dim = unlabeled_lengths(args), args.input_size
    unit, enough = ("samples", 64000) if dim is None else ("frames of features", 400)
    with evaluating(model):
        # Batch norm fails if a mini-batch is one utterance of one frame.
        fewest = smallest_input(lambda n: frames_of(model, n, dim), enough, frames=2)
    _warn_of_long(args, lengths, "unlabeled")
    is_usable = _counts(lengths) >= fewest
    short = () if is_usable.all() else itertools.compress(lengths.items(), ~is_usable)
    what = f"have fewer than the {fewest} {unit} that make two frames of the encoder"
    bad = {key: f"{key}: {count}" for key, count in short}
    _leave_out(bad, len(lengths), args.pl_max_bad_share, what)
    with atomic_write(file) as stream:
        usable = itertools.compress(lengths.items(), is_usable)
        stream.writelines(f"{key} {count}\n" for key, count in usable)


def usable_shape_file(args: argparse.Namespace) -> Path:
    """Name the file that `write_usable` writes."""
    return Path(args.output_dir) / "unlabeled_shape"
