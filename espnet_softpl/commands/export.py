"""Write a trained model as a stock ESPnet model: a directory or a packed archive.

Nothing of this package is left in it, and nothing of the machine that it was trained
on: keys and paths of the training run are taken out of `config.yaml`, and the files
that a model needs (statistics, BPE model) lie beside it.
"""

from __future__ import annotations

import contextlib
import copy
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from espnet2.main_funcs.pack_funcs import pack
from espnet2.tasks.asr import ASRTask

from espnet_softpl.commands.experiment import ARCHIVES, Experiment, Weights, is_archive
from espnet_softpl.core.errors import UserError, name_some
from espnet_softpl.core.modules import check_structure

# Options of this package, which ESPnet's parsers refuse.
OURS = ("pl_", "unlabeled_")


# ESPnet's options that name files of a training run, with values that name none.
OF_THE_RUN: dict[str, Any] = {
    "config": None,
    "output_dir": None,
    "deepspeed_config": None,
    "dist_init_method": "env://",
    "pretrain_path": None,
    "init_param": [],
    "train_shape_file": [],
    "valid_shape_file": [],
    "train_data_path_and_name_and_type": [],
    "valid_data_path_and_name_and_type": [],
    "rir_scp": None,
    "noise_scp": None,
}


def stock_config(config: dict[str, Any]) -> dict[str, Any]:
    """Take out of a configuration what is not about the model.

    Args:
        config: What `config.yaml` of an experiment says.

    Returns:
        A copy without the options of this package, and with those of ESPnet that name
        data or files of the training run at values that name nothing.
    """
    stock = {key: v for key, v in config.items() if not key.startswith(OURS)}
    found = {key: v for key, v in OF_THE_RUN.items() if key in stock}
    return copy.deepcopy({**stock, **found})


class _Files:
    """The files that go along with a model, under names that are unique.

    Args:
        taken: Names that are not free.
    """

    def __init__(self, taken: Sequence[str]) -> None:
        self._taken = set(taken)
        self.sources: dict[str, Path] = {}

    def add(self, source: Path) -> str:
        """Take a file in, once; return its name."""
        for name, known in self.sources.items():
            if known.resolve() == source.resolve():
                return name
        name, number = source.name, 1
        while name in self._taken:
            number += 1
            name = f"{source.stem}_{number}{source.suffix}"
        self._taken.add(name)
        self.sources[name] = source
        return name

    def place_in(self, directory: Path | None) -> Callable[[Path], str]:
        """Return a function that names a file in a directory, or bare."""
        base = Path() if directory is None else directory
        return lambda source: str(base / self.add(source))


@contextlib.contextmanager
def _working_in(directory: Path) -> Iterator[None]:
    """Work in a directory: ESPnet names what it packs relative to it."""
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def _check_loads(config: Path, model: Path, weights: Weights) -> None:
    """Load a model as stock ESPnet does, and compare.

    ESPnet itself takes any weights for any model, and leaves out what does not fit.

    Raises:
        UserError: It cannot be built, or has other weights than it should.
    """
    try:
        built, args = ASRTask.build_model_from_file(config, model, "cpu")
    except (OSError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"stock ESPnet cannot build this model: {type(error).__name__}: {error}"
        ) from error
    loaded = built.state_dict()
    if getattr(
        args, "use_adapter", False
    ):  # With adapters the file may hold these alone.
        loaded = {name: v for name, v in loaded.items() if name in weights.state}
    check_structure(weights.state, loaded, f"the weights of {weights.source}")
    wrong = [
        name
        for name, value in weights.state.items()
        if not torch.equal(loaded[name], value.to(loaded[name].dtype))
        and value.isfinite().all()
    ]
    if wrong:
        raise UserError(f"{weights.source}: not loaded as they are: {name_some(wrong)}")


def check_target(out: Path) -> None:
    """Refuse a target that would be lost, or that is no archive of ESPnet's.

    Args:
        out: The archive or directory to write.

    Raises:
        UserError: It is a directory with something in it, a file where a directory
            would go, or has the suffix of another kind of archive.
    """
    if is_archive(out):
        if out.is_dir():
            raise UserError(f"--out {out} is a directory")
        return
    if out.suffix in (".gz", ".bz2", ".xz", ".7z", ".rar", ".pth"):
        raise UserError(
            f"--out {out}: want one of {', '.join(ARCHIVES)}, or a directory"
        )
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"--out {out} is there already; remove it, or name another")


def export(
    experiment: Experiment,
    weights: Weights,
    name: str,
    outputs: Sequence[Path],
    options: Sequence[Path] = (),
) -> list[str]:
    """Write a model as a stock ESPnet model.

    It is loaded by stock ESPnet and compared before anything is put in place.

    Args:
        experiment: Where the model comes from.
        weights: Its weights.
        name: What the model file is called, without suffix.
        outputs: Archives (by their suffix) and directories. The paths in an archive
            are relative to it; those in a directory's `config.yaml` are absolute, so
            that it loads from everywhere.
        options: Further files that go along.

    Returns:
        The names of the files in the model.

    Raises:
        UserError: A target is taken, a file is missing, or the weights do not fit the
            configuration.
    """
    for out in outputs:
        check_target(out)
    for path in options:
        if not path.is_file():
            raise UserError(f"--option {path} does not exist")
    experiment.check_files()
    model = f"{name}.pth"
    files = _Files(["config.yaml", "meta.yaml", model])
    config = stock_config(experiment.config)

    def write_config(path: Path, directory: Path | None) -> None:
        placed = experiment.place_files(config, files.place_in(directory))
        text = yaml.safe_dump(placed, sort_keys=False, indent=4, allow_unicode=True)
        path.write_text(text, encoding="utf-8")

    experiment.place_files(config, files.place_in(None))
    for path in options:
        files.add(path)
    for out in outputs:
        target = out.absolute()
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export.", dir=target.parent) as work:
            stage = Path(work) / "model"
            stage.mkdir()
            for member, source in files.sources.items():
                shutil.copyfile(source, stage / member)
            torch.save(weights.state, stage / model)
            write_config(stage / "config.yaml", stage)
            _check_loads(stage / "config.yaml", stage / model, weights)
            if is_archive(out):
                write_config(stage / "config.yaml", None)
                packed = Path(work) / target.name
                _pack(stage, model, list(files.sources), packed)
                os.replace(packed, target)
            else:
                write_config(stage / "config.yaml", target)
                target.mkdir(exist_ok=True)  # An empty one is replaced.
                os.replace(stage, target)
    return ["config.yaml", model, *files.sources]


def _pack(stage: Path, model: str, members: list[str], archive: Path) -> None:
    """Pack a directory as `espnet2.bin.pack asr` does."""
    # ESPnet lists what it packs on the screen.
    with _working_in(stage), contextlib.redirect_stdout(io.StringIO()):
        pack(
            files={"asr_model_file": model},
            yaml_files={"asr_train_config": "config.yaml"},
            option=members,
            outpath=archive,
        )
