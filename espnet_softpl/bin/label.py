"""Write pseudo-labels of untranscribed audio as files, with a trained ESPnet model.

Greedy CTC transcripts, as a training with pseudo-labels makes them of the same audio.
In --out: text and wav.scp (Kaldi's, of what the filters keep: a labeled set for any
ESPnet recipe), confidence (of every utterance, 0 to 1), dropped (the rest, with the
filter that dropped it, or 'unusable'), and label.yaml (how they were made, and counts).
A run that was stopped goes on where it was; one that is finished is left alone. Exit
status 2 where something is wrong.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_softpl import filters
from espnet_softpl.bin.export import add_model_arguments, share
from espnet_softpl.commands import label
from espnet_softpl.commands.experiment import open_experiment
from espnet_softpl.core import errors
from espnet_softpl.core.errors import UserError
from espnet_softpl.training.config import build_filters
from espnet_softpl.training.lengths import sample_rate


def at_least_1(text: str) -> int:
    """Parse a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = argparse.ArgumentParser(
        prog="label",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--wav_scp",
        required=True,
        metavar="FILE",
        help="audio to label: lines of 'utterance-id value', as Kaldi's wav.scp",
    )
    parser.add_argument(
        "--data_type",
        default="sound",
        help="ESPnet's type of these values, such as sound or kaldi_ark "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--shape_file",
        metavar="FILE",
        help="lengths of the utterances in samples, as 'utterance-id length'; needed "
        "unless --data_type is sound (default: read from the audio files' headers)",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where; made if new"
    )
    parser.add_argument(
        "--pl_filter",
        nargs="*",
        default=["tokens"],
        help="which labels are kept, judged in order; none or several of: "
        f"{', '.join(filters.available())}, or your own as 'module:Class'. Those that "
        "learn from the labeled data of a training are refused (default: tokens, which "
        "drops empty transcripts)",
    )
    parser.add_argument(
        "--pl_filter_conf",
        action=NestedDictAction,
        default={},
        help="their keyword arguments, e.g. threshold=0.9 for confidence; of several, "
        "by name: confidence.threshold=0.9 (default: each filter's own)",
    )
    parser.add_argument(
        "--batch_bins",
        type=at_least_1,
        default=4_000_000,
        help="most samples in a mini-batch, padding included; 4000000 are 250 s at "
        "16 kHz (default: %(default)s)",
    )
    parser.add_argument(
        "--ngpu",
        type=int,
        choices=(0, 1),
        default=0,
        help="number of GPUs, 0 to 1; for several split the wav.scp (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--num_workers",
        type=int,
        default=1,
        help="processes that read audio ahead; 0 reads it in this one (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--pl_max_bad_share",
        type=share,
        default=0.01,
        help="largest share of audio, 0 to 1, that may be unusable (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        help="seed of filters that draw, at least 0 (default: %(default)s)",
    )
    return parser


def run(args: argparse.Namespace) -> dict:
    """Label as the options say; return the counts."""
    if args.ngpu and not torch.cuda.is_available():
        raise UserError("--ngpu 1: torch finds no GPU here; use --ngpu 0")
    if args.num_workers < 0:
        raise UserError(f"--num_workers must be at least 0, got {args.num_workers}")
    trusted = build_filters(args)
    with open_experiment(args.asr_exp) as experiment:
        weights = experiment.weights(args.which, args.student, args.weight)
        labeler = label.build_labeler(experiment, weights, trusted)
    audio = label.read_audio(
        args.wav_scp, args.data_type, args.shape_file, sample_rate(labeler.args)
    )
    listed = Path(args.wav_scp).read_bytes()
    settings = {
        "model": weights.source,
        "sha256_of_model": label.digest(weights),
        "wav_scp": str(args.wav_scp),
        "sha256_of_wav_scp": hashlib.sha256(listed).hexdigest(),
        "data_type": args.data_type,
        "pl_filter": list(args.pl_filter),
        "pl_filter_conf": dict(args.pl_filter_conf),
        "batch_bins": args.batch_bins,
        "seed": args.seed,
    }
    return label.label(
        labeler,
        audio,
        args.out,
        settings,
        batch_bins=args.batch_bins,
        device="cuda" if args.ngpu else "cpu",
        num_workers=args.num_workers,
        max_bad_share=args.pl_max_bad_share,
        seed=args.seed,
    )


def main(cmd: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        cmd: Command-line arguments; None for those of the process.
    """
    args = get_parser().parse_args(cmd)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        counts = run(args)
    except (ValueError, OSError) as error:
        errors.refuse(error)
    lost = ", ".join(f"{n} {reason}" for reason, n in counts["dropped"].items())
    print(
        f"{args.out}: {counts['kept']} of {counts['utterances']} utterances kept, "
        f"{counts['kept_hours']} of {counts['hours']} hours; dropped: {lost or 'none'}"
    )


if __name__ == "__main__":
    sys.exit(main())
