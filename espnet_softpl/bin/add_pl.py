"""Add pseudo-labeling to a trained ESPnet model: writes its configuration.

Reads a trained experiment, a packed model or a model of the model zoo; checks that it
can learn from the untranscribed audio given; writes a complete configuration; and
prints the command that trains. Run it where the experiment was trained: in the
directory of asr.sh. Nothing is written before all checks are passed, except that an
archive is unpacked.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from espnet_softpl.commands.arguments import (
    Parser,
    at_least,
    command,
    directory,
    existing_path,
    late,
    names_in,
    new_directory,
    new_file,
)


def get_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = Parser(__doc__)
    add, new = parser.add_argument, {"type": new_directory, "metavar": "DIR"}
    there = {"type": directory, "metavar": "DIR"}
    source = parser.add_mutually_exclusive_group(required=True)
    text = "trained experiment, e.g. exp/asr_train_conformer_raw_en_bpe5000"
    source.add_argument("--asr_exp", help=text, **there)
    text = "model packed by espnet2.bin.pack: .zip, .tar, .tgz, .tbz2 or .txz"
    source.add_argument("--archive", type=existing_path, metavar="FILE", help=text)
    text = "model of espnet_model_zoo: user/model of Hugging Face, or a URL"
    source.add_argument("--model_tag", metavar="TAG", help=text)
    add(
        "--unlabeled",
        type=existing_path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="untranscribed audio: wav.scp files or directories that hold one "
        "(feats.scp for a model that takes features); several are merged",
    )
    add("--out", type=new_file, required=True, help="configuration to write, .yaml")
    add("--overwrite", action="store_true", help="replace --out if it exists")
    add(
        "--exp_dir",
        help="experiment to be trained (default: asr_<name of --out>, beside --asr_exp "
        "or in exp)",
        **new,
    )
    add(
        "--labeled",
        help="labeled training data: a directory with wav.scp and text (default: the "
        "base model's; a packed model has none)",
        **there,
    )
    add("--valid", help="labeled validation data, with the same default", **there)
    add(
        "--init_param",
        type=Path,
        metavar="FILE",
        help="parameters to start from (default: valid.cer_ctc.ave.pth or the next "
        "best average, best or latest epoch; an archive's own)",
    )
    text = "where an archive is unpacked (default: exp/<name of the archive>)"
    add("--unpack_dir", help=text, **new)
    text = "where --model_tag keeps downloads (default: espnet_model_zoo's own)"
    add("--cache_dir", help=text, **new)
    add(
        "--moved",
        nargs=2,
        action="append",
        default=[],
        metavar=("OLD", "NEW"),
        help="a file or directory of the base model's configuration that lies "
        "elsewhere now; may be given several times (default: none has moved)",
    )
    text = f"pl_criterion: {', '.join(names_in('criteria'))}, or your own as "
    add("--criterion", default="hard_ctc", help=f"{text}module:Class")
    add("--teacher", default="ema", choices=names_in("teacher"), help="pl_teacher")
    text = "unlabeled mini-batches to each labeled one, at least 1"
    add("--unlabeled_steps", type=at_least(1), default=3, metavar="N", help=text)
    text = "peak learning rate, greater than 0 (default: half of the base model's)"
    add("--lr", type=float, help=text)
    text = "epochs, at least 1 (default: the base model's)"
    add("--max_epoch", type=at_least(1), help=text)
    add(
        "--ngpu",
        type=at_least(0),
        help="GPUs of the printed command, at least 0 (default: those of this machine, "
        "at most as many as the base model had)",
    )
    return parser


main = command(get_parser, late("add_pl.command"))


if __name__ == "__main__":
    main()
