"""Write a trained model as a stock ESPnet model: a directory or a packed archive.

Nothing of this package is left in it, nor of the machine that it was trained on.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from espnet2.main_funcs.pack_funcs import pack
from espnet2.tasks.asr import ASRTask

from espnet_softpl.commands import model_card
from espnet_softpl.commands.experiment import (
    OURS,
    Experiment,
    Weights,
    is_of_run,
    open_experiment,
)
from espnet_softpl.commands.packed import ARCHIVES, is_archive
from espnet_softpl.core.errors import UserError, name_some, refusing
from espnet_softpl.core.files import save_atomically, work_directory
from espnet_softpl.core.modules import check_structure

HUB = (".zip", ".tar")  # Archives that can be unpacked for the Hub.
DATA = ("train_shape_file", "valid_shape_file", "rir_scp", "noise_scp")
DATA += tuple(f"{part}_data_path_and_name_and_type" for part in ("train", "valid"))


def stock_config(config: dict[str, Any]) -> dict[str, Any]:
    """Copy a configuration without what is not about the model.

    It has none of this package's options, and ESPnet's own defaults for those of data
    and of the training run.
    """
    stock = {key: v for key, v in config.items() if not key.startswith(OURS)}
    defaults = vars(ASRTask.get_parser().parse_args([]))
    run = {key for key in stock if is_of_run(key) or key in DATA} & defaults.keys()
    return {**stock, **{key: defaults[key] for key in run}}


def _check_loads(config: Path, model: Path, weights: Weights) -> None:
    """Load a model as stock ESPnet does, which ignores what does not fit; compare."""
    with refusing("stock ESPnet cannot build this model"):
        built, args = ASRTask.build_model_from_file(config, model, "cpu")
    loaded = built.state_dict()
    if getattr(args, "use_adapter", False):
        # With adapters the file may hold these alone.
        loaded = {name: v for name, v in loaded.items() if name in weights.state}
    check_structure(weights.state, loaded, f"the weights of {weights.source}")
    wrong = [
        name
        for name, value in weights.state.items()
        if value.isfinite().all()
        and not torch.equal(loaded[name], value.to(loaded[name].dtype))
    ]
    if wrong:
        raise UserError(f"{weights.source}: not loaded as they are: {name_some(wrong)}")


def check_target(out: Path) -> None:
    """Refuse a target that would be lost, or that is no archive of ESPnet's."""
    reason = ""
    if is_archive(out):
        reason = "is a directory" if out.is_dir() else ""
    elif out.suffix in (".gz", ".bz2", ".xz", ".7z", ".rar", ".pth"):
        reason = f"want one of {', '.join(ARCHIVES)}, or a directory"
    elif out.is_file() or (out.is_dir() and any(out.iterdir())):
        reason = "is there already; remove it, or name another"
    if reason:
        raise UserError(f"--out {out}: {reason}")


def export(
    experiment: Experiment,
    weights: Weights,
    name: str,
    outputs: Sequence[Path],
    options: Sequence[Path] = (),
) -> list[str]:
    """Write weights of an experiment as `NAME.pth` of a stock ESPnet model.

    Outputs are archives (by their suffix) and directories. The paths in an archive are
    relative to it; those in a directory's `config.yaml` are absolute, so that it loads
    from everywhere. Further files, `options`, go along. Stock ESPnet loads the model,
    and it is compared, before anything is put in place.

    Returns the names of the files in the model, each with the place that it is from.
    UserError if a target is taken, a file is missing, or the weights do not fit.
    """
    for out in outputs:
        check_target(out)
    for path in options:
        if not path.is_file():
            raise UserError(f"--option {path} does not exist")
    experiment.check_files()
    model = f"{name}.pth"
    own = ("config.yaml", "meta.yaml", model)
    files: dict[str, Path] = {}  # What goes along, by a name that no other file has.
    config = stock_config(experiment.config)

    def add(path: Path) -> str:
        name, number = path.name, 1
        while name in own or files.setdefault(name, path.resolve()) != path.resolve():
            number += 1
            name = f"{path.stem}_{number}{path.suffix}"
        return name

    def write_config(stage: Path, base: Path) -> None:
        placed = experiment.place_files(config, lambda f: str(base / add(f)))
        text = yaml.safe_dump(placed, sort_keys=False, indent=4, allow_unicode=True)
        (stage / "config.yaml").write_text(text, encoding="utf-8")

    for out in outputs:
        target = out.absolute()
        target.parent.mkdir(parents=True, exist_ok=True)
        with work_directory(target.with_name(f".export.{target.name}")) as work:
            stage = work / "model"
            stage.mkdir()
            write_config(stage, stage)
            for path in options:
                add(path)
            for member, path in files.items():
                shutil.copyfile(path, stage / member)
            save_atomically(weights.state, stage / model)
            _check_loads(stage / "config.yaml", stage / model, weights)
            if is_archive(out):
                write_config(stage, Path())
                packed = work / target.name
                _pack(stage, model, list(files), packed)
                os.replace(packed, target)
            else:
                write_config(stage, target)
                target.mkdir(exist_ok=True)  # An empty one is replaced.
                os.replace(stage, target)
    taken = (f"{name} (of {path})" for name, path in files.items())
    return ["config.yaml", model, *taken]


def _pack(stage: Path, model: str, members: list[str], archive: Path) -> None:
    before = Path.cwd()
    os.chdir(stage)  # ESPnet names what it packs relative to the working directory.
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # It lists it there.
            config = {"asr_train_config": "config.yaml"}
            pack({"asr_model_file": model}, config, archive, members)
    finally:
        os.chdir(before)


def run(args: argparse.Namespace) -> list[str]:
    """Export as the options of `bin.export` say; return what was written, in lines."""
    archive = next((out for out in args.out if out.suffix in HUB), None)
    if args.push_to_hub and archive is None:
        raise UserError(f"--push-to-hub wants an --out that ends in {' or '.join(HUB)}")
    with (
        open_experiment(args.asr_exp, args.out[0]) as experiment,
        tempfile.TemporaryDirectory() as folder,
    ):
        options = list(args.option)
        if args.card:
            options.append(Path(folder, model_card.NAME))
            model_card.write_card(args, options[-1])
        weights = experiment.weights(args.which, args.student, args.weight)
        names = export(experiment, weights, args.which, args.out, options)
    lines = [f"{out}: {', '.join(names)}" for out in args.out]
    if args.push_to_hub:
        lines.append(model_card.push(archive, args.push_to_hub))
    return [f"{args.which}: {weights.source}", *lines]
