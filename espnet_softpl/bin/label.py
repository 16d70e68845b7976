"""Write pseudo-labels of untranscribed audio as files, with a trained ESPnet model.

Greedy CTC transcripts, as a training with pseudo-labels makes them of the same audio.
In --out: text and wav.scp (Kaldi's, of what the filters keep: a labeled set for any
ESPnet recipe), confidence (of every utterance, 0 to 1), dropped (the rest, with the
filter that dropped it, or 'unusable'), and label.yaml (how they were made, and counts).
A run that was stopped goes on where it was; one that is finished is left alone. With
--num_shards each shard labels its part of the mini-batches, into --out/shard0of8 and so
on; all shards' files of a name, joined by cat, are those of one run. Exit status 2 if
something is wrong.
"""

from __future__ import annotations

import argparse
import sys

from espnet_softpl.commands import arguments
from espnet_softpl.commands.arguments import at_least


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = arguments.Parser(__doc__, log_level="INFO")
    arguments.add_model_arguments(parser)
    add = parser.add_argument
    there = {"type": arguments.existing_file, "metavar": "FILE"}
    text = "audio to label: lines of 'utterance-id value', as Kaldi's wav.scp"
    add("--wav_scp", required=True, help=text, **there)
    text = "ESPnet's type of these values, such as sound or kaldi_ark"
    add("--data_type", default="sound", help=text)
    add(
        "--shape_file",
        help="lengths of the utterances in samples, as 'utterance-id length'; needed "
        "unless --data_type is sound (default: read from the audio files' headers)",
        **there,
    )
    add(
        "--out",
        type=arguments.new_directory,
        required=True,
        metavar="DIR",
        help="where; made if new",
    )
    add(
        "--pl_filter",
        nargs="*",
        default=["tokens"],
        help=f"which labels are kept, judged in order; any of: "
        f"{', '.join(arguments.names_in('filters'))}, or your own as 'module:Class'; "
        f"none that learns from labeled data (default: tokens, which drops empty ones)",
    )
    add(
        "--pl_filter_conf",
        action=arguments.Settings,
        default={},
        help="their keyword arguments, e.g. threshold=0.9 for confidence; of several, "
        "by name: confidence.threshold=0.9 (default: each filter's own)",
    )
    text = "most samples in a mini-batch, with padding; 4000000 are 250 s at 16 kHz"
    add("--batch_bins", type=at_least(1), default=4_000_000, help=text)
    text = "number of GPUs, 0 to 1; for several run a shard on each"
    add("--ngpu", type=int, choices=(0, 1), default=0, help=text)
    text = "of matrix products; half precision may be faster, and a label may differ "
    text += "if two are nearly as good (default: %(default)s)"
    kinds = ("float32", "bfloat16", "float16")
    add("--precision", choices=kinds, default="float32", help=text)
    text = "parts that the work is split into, at least 1"
    add("--num_shards", type=at_least(1), default=1, help=text)
    add(
        "--shard",
        type=at_least(0),
        nargs="+",
        metavar="I",
        help="which parts this process labels, one after the other, each from 0 to "
        "num_shards - 1 (default: all)",
    )
    text = "processes that read audio ahead; 0 reads it in this one"
    add("--num_workers", type=at_least(0), default=1, help=text)
    text = "largest share of audio, 0 to 1, that may be unusable"
    add("--pl_max_bad_share", type=arguments.share, default=0.01, help=text)
    add("--seed", type=int, default=0, help="of filters that draw, at least 0")
    return parser


main = arguments.command(get_parser, arguments.late("label"))


if __name__ == "__main__":
    sys.exit(main())
