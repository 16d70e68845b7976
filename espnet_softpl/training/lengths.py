"""Lengths of utterances, from ESPnet's options and shape files."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import humanfriendly

from espnet_softpl import teacher
from espnet_softpl.core import errors
from espnet_softpl.data import scan as data_scan
from espnet_softpl.data import tables
from espnet_softpl.data.tables import write_lengths
from espnet_softpl.data.usable_audio import smallest_input
from espnet_softpl.monitors.statistics import LENGTH_RATIO
from espnet_softpl.training import options
from espnet_softpl.training.model import SoftPLModel, frames_of

logger = logging.getLogger(__name__)


def labeled_lengths(
    args: argparse.Namespace,
) -> tuple[dict[str, int], dict[str, int]] | None:
    """Read the lengths of the labeled utterances from the shape files.

    Returns:
        Tokens and samples by utterance id, or None if `train_shape_file` does not
        name both, as `--collect_stats` and ESPnet's recipes name them.
    """
    lengths = {
        what: tables.read_lengths(path)
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
    return lengths["text"], lengths["speech"]


def sample_rate(args: argparse.Namespace) -> int:
    """Return the sample rate of the audio in Hz, as the front end has it."""
    rate = (args.frontend_conf or {}).get("fs", 16000)
    # ESPnet takes "16k" as well.
    return humanfriendly.parse_size(rate) if isinstance(rate, str) else int(rate)


def unlabeled_lengths(args: argparse.Namespace) -> dict[str, int]:
    """Return the lengths of the unlabeled utterances: given, or read from headers.

    Returns:
        Samples (frames of features) by utterance id.

    Raises:
        UserError: More than `pl_max_bad_share` of the files cannot be used: they are
            unreadable or empty, or have another shape than the model takes. Fewer are
            named in the log, counted and left out.
    """
    if args.unlabeled_shape_file:
        lengths: dict[str, int] = {}
        for path in args.unlabeled_shape_file:
            lengths.update(tables.read_lengths(path))
        return lengths
    entries, kind = data_scan.speech_scp(
        getattr(args, options.UNLABELED_DATA), options.UNLABELED_DATA
    )
    scan = data_scan.scan_audio(entries, kind, args.input_size)
    data_scan.check_bad_share(
        scan.bad, len(entries), args.pl_max_bad_share, "cannot be used"
    )
    if scan.bad:
        logger.warning(
            "%d unlabeled utterances are left out: %s",
            len(scan.bad),
            errors.name_some(scan.bad.values(), most=len(scan.bad)),
        )
    return scan.samples


def write_usable(args: argparse.Namespace, model: SoftPLModel) -> None:
    """Write the lengths of the unlabeled utterances that the model can take.

    Raises:
        UserError: More than `pl_max_bad_share` of them are too short for a frame.
            Fewer are named in the log and left out. Or the run is resumed with data
            that lack what it began with.
    """
    file = usable_shape_file(args)
    if args.resume and file.exists():
        # Audio that has gone bad since must not change the mini-batches.
        entries, _ = data_scan.speech_scp(
            getattr(args, options.UNLABELED_DATA), options.UNLABELED_DATA
        )
        missing = set(tables.read_lengths(file)) - set(entries)
        if missing:
            raise errors.UserError(
                f"cannot resume: {len(missing)} unlabeled utterances that the run "
                f"began with ({file}) are not in {options.UNLABELED_DATA} any more: "
                f"{errors.name_some(missing)}. Start again in a new --output_dir."
            )
        return
    lengths = unlabeled_lengths(args)
    dim = args.input_size
    with teacher.evaluating(model):
        # Batch norm fails if a mini-batch is one utterance of one frame.
        fewest = smallest_input(
            lambda n: frames_of(model, n, dim), 64000 if dim is None else 400, frames=2
        )
    short = {k: f"{k}: {n}" for k, n in lengths.items() if n < fewest}
    unit = "samples" if dim is None else "frames of features"
    what = f"have fewer than the {fewest} {unit} that make two frames of the encoder"
    data_scan.check_bad_share(short, len(lengths), args.pl_max_bad_share, what)
    if short:
        logger.warning(
            "%d unlabeled utterances %s, and are left out: %s",
            len(short),
            what,
            errors.name_some(short.values()),
        )
    write_lengths({key: n for key, n in lengths.items() if key not in short}, file)


def usable_shape_file(args: argparse.Namespace) -> Path:
    """Name the file that `write_usable` writes."""
    return Path(args.output_dir) / "unlabeled_shape"
