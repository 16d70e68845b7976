"""A trained ESPnet experiment as the seed of pseudo-labeling: read, found complete.

No ESPnet is needed: configuration and file names say it all. What building the model
shows is the business of `dry_run`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from espnet_softpl.archives import DESCRIPTION
from espnet_softpl.checks import UserError

# Statistics by which ESPnet may have chosen epochs, the best guide first: labels come
# from the CTC head. Of a model without decoder the others are not defined, and ESPnet
# picks an arbitrary epoch by them.
CTC_STATISTICS = ("cer_ctc", "loss_ctc", "loss")
ALL_STATISTICS = ("cer_ctc", "wer", "cer", "acc", "cer_transducer", "loss")

DATA_OPTIONS = {"train": "--labeled", "valid": "--valid"}


@dataclasses.dataclass(frozen=True)
class Seed:
    """A trained model and what it was trained with.

    Attributes:
        config: Its `config.yaml`.
        checkpoint: The parameters to start from.
        source: Directory that it was read from.
        has_data: False for a packed model, which comes without data.
        recipe: The directory that relative paths are meant from, where it is known.
    """

    config: dict[str, Any]
    checkpoint: Path
    source: Path
    has_data: bool
    recipe: Path | None = None


def is_ctc_only(config: Mapping[str, Any]) -> bool:
    """Tell whether a configuration describes a model without decoder."""
    weight = (config.get("model_conf") or {}).get("ctc_weight", 0.5)
    # ESPnet drops an attention decoder at this weight, but not a transducer's.
    return weight == 1.0 and config.get("decoder") != "transducer"


def read_config(path: Path) -> dict[str, Any]:
    """Read the `config.yaml` of a training.

    Raises:
        UserError: It is missing, unreadable, or holds no token list.
    """
    if not path.is_file():
        raise UserError(
            f"{path} does not exist. A trained ESPnet experiment has its configuration "
            f"there: give the directory that holds config.yaml and *.pth"
        )
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no YAML file: {error}") from error
    if not isinstance(config, dict) or not config.get("token_list"):
        raise UserError(
            f"{path} holds no token_list: it is not what espnet2.bin.asr_train writes "
            f"into an experiment"
        )
    return config


def find_checkpoint(directory: Path, ctc_only: bool) -> Path:
    """Choose the parameters to start from.

    Args:
        directory: The experiment.
        ctc_only: True for a model without decoder.

    Returns:
        An average of the best epochs, else the best epoch (each by the statistics that
        say most about the CTC head), else the latest epoch.

    Raises:
        UserError: There is none.
    """
    statistics = CTC_STATISTICS if ctc_only else ALL_STATISTICS
    names = [f"valid.{name}.ave.pth" for name in statistics]
    names += [f"valid.{name}.ave_*best.pth" for name in statistics]
    names += [f"valid.{name}.best.pth" for name in statistics]
    for name in (*names, "latest.pth"):
        found = sorted(path for path in directory.glob(name) if path.is_file())
        if found:
            return found[-1]
    epochs = [path for path in directory.glob("*epoch.pth") if path.is_file()]
    if not epochs:
        raise UserError(
            f"{directory} holds no trained model: neither {names[0]} nor latest.pth "
            f"nor *epoch.pth. Is the training done? Or give --init_param FILE"
        )
    return max(epochs, key=lambda path: path.stat().st_mtime)


def from_experiment(directory: Path, init_param: Path | None = None) -> Seed:
    """Read an experiment that `espnet2.bin.asr_train` has written.

    Args:
        directory: The experiment, e.g. exp/asr_train_conformer_raw_en_bpe5000.
        init_param: Parameters to start from; None chooses.

    Returns:
        The seed.

    Raises:
        UserError: Something is missing.
    """
    config = read_config(directory / "config.yaml")
    if init_param is None:
        init_param = find_checkpoint(directory, is_ctc_only(config))
    recipe = recipe_directory(directory, config.get("output_dir"))
    return Seed(config, init_param, directory, has_data=True, recipe=recipe)


def recipe_directory(directory: Path, output_dir: str | None) -> Path | None:
    """Find where an experiment was trained: where its relative paths are meant from.

    Args:
        directory: The experiment, as it lies now.
        output_dir: The same, as its training named it.

    Returns:
        The directory, or None where the names do not tell.
    """
    named = Path(output_dir or "/")
    here = directory.resolve()
    if named.is_absolute() or here.parts[-len(named.parts) :] != named.parts:
        return None
    return here.parents[len(named.parts) - 1]


def from_unpacked(root: Path, init_param: Path | None = None) -> Seed:
    """Read a packed model after unpacking, or a model repository of Hugging Face.

    Args:
        root: The directory with `meta.yaml`.
        init_param: Parameters to start from; None for those of the archive.

    Returns:
        The seed; paths to files of the archive lead into `root`.

    Raises:
        UserError: It is no packed ASR model, or a file that it names is missing.
    """
    path = root / DESCRIPTION
    try:
        meta = yaml.safe_load(path.read_text(encoding="utf-8"))
        config_name = meta["yaml_files"]["asr_train_config"]
        model_name = meta["files"]["asr_model_file"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} names no asr_train_config and asr_model_file ({error!r}): this is "
            f"no speech recognition model that espnet2.bin.pack asr has packed"
        ) from error

    def inside(name: str) -> str:
        # Files from outside of the directory that they were packed in are named by
        # absolute paths, and stored without the leading slash.
        found = root / name.lstrip("/")
        return str(found) if name and found.is_file() else name

    config = relocate(read_config(Path(inside(config_name))), inside)
    checkpoint = init_param or Path(inside(model_name))
    return Seed(config, checkpoint, root, has_data=False)


def relocate(config: Mapping[str, Any], rename: Callable[[str], str]) -> dict[str, Any]:
    """Rename the files in a configuration.

    Args:
        config: A configuration.
        rename: The new name of a string, or the string itself.

    Returns:
        A copy; tokens are left alone.
    """

    def renamed(value: Any) -> Any:
        if isinstance(value, str):
            return rename(value)
        if isinstance(value, Mapping):
            return {key: renamed(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [renamed(item) for item in value]
        return value

    return {k: v if k == "token_list" else renamed(v) for k, v in config.items()}


def mover(moves: Sequence[tuple[str, str]]) -> Callable[[str], str]:
    """Return a renaming for `relocate`.

    Args:
        moves: Pairs of an old and a new path, of files or of directories.

    Returns:
        A function from old to new names; other strings are left as they are.
    """

    def rename(name: str) -> str:
        for old, new in moves:
            old = old.rstrip("/")
            if name == old or name.startswith(f"{old}/"):
                return new.rstrip("/") + name[len(old) :]
        return name

    return rename


def named_files(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the keys and names of all files that a training would read."""
    for part in DATA_OPTIONS:
        for spec in config.get(f"{part}_data_path_and_name_and_type") or ():
            yield f"{part}_data_path_and_name_and_type", spec[0]
        for path in config.get(f"{part}_shape_file") or ():
            yield f"{part}_shape_file", path
    if config.get("token_type") == "bpe":
        yield "bpemodel", config.get("bpemodel") or ""
    for key in ("non_linguistic_symbols", "rir_scp", "noise_scp"):
        if isinstance(config.get(key), str) and config[key].lower() != "none":
            yield key, config[key]
    if config.get("normalize") == "global_mvn":
        stats = (config.get("normalize_conf") or {}).get("stats_file", "")
        yield "normalize_conf.stats_file", stats


def check_files(seed: Seed) -> None:
    """Refuse a seed whose configuration names files that are not there.

    Args:
        seed: The seed, with data given anew where they were.

    Raises:
        UserError: With all that is missing, and the option that gives each anew.
    """
    missing = [
        (key, name)
        for key, name in named_files(seed.config)
        if not name or not Path(name).exists()
    ]
    if not missing:
        return
    lines = []
    for key, name in missing:
        option = DATA_OPTIONS.get(key.partition("_")[0])
        wanted = f"{option} DIR" if option else f"--moved {name or 'OLD'} NEW"
        lines.append(f"  {key}: {name or '(not named)'}   (give {wanted})")
    hint = ""
    if seed.recipe and any((seed.recipe / name).exists() for _, name in missing):
        hint = (
            f"\nPaths of the seed are relative to {seed.recipe}: run this command, and "
            f"the training, there"
        )
    if not seed.has_data:
        hint = "\nA packed model comes without data: give --labeled DIR --valid DIR"
    listed = "\n".join(lines)
    raise UserError(
        f"files of the seed {seed.source} do not exist:\n{listed}{hint}\n"
        f"--labeled and --valid take directories with wav.scp and text; --moved OLD "
        f"NEW renames a file or a whole directory, such as --moved dump elsewhere/dump"
    )


def check_model(config: Mapping[str, Any], labeled_anew: bool = False) -> None:
    """Refuse a model that cannot go on with pseudo-labels, whatever the options.

    Args:
        config: The seed's configuration.
        labeled_anew: True where labeled data are given anew.

    Raises:
        UserError: With what it lacks and what to do.
    """
    model = config.get("model") or "espnet"
    if model != "espnet":
        raise UserError(
            f"the seed's model is {model!r}; only 'espnet' (CTC, attention, transducer "
            f"and their hybrids) can learn from pseudo-labels"
        )
    if (config.get("model_conf") or {}).get("ctc_weight", 0.5) == 0.0:
        raise UserError(
            "the seed was trained with model_conf.ctc_weight: 0, so it has no CTC "
            "head, and the teacher labels with CTC. Train the seed with a weight above "
            "0 (0.3 is common in hybrids); an untrained head labels nothing of use"
        )
    if config.get("use_adapter"):
        raise UserError(
            "the seed was trained with use_adapter: true; adapters are not supported. "
            "Merge them into the model first, and set use_adapter: false"
        )
    if config.get("multi_task_dataset"):
        raise UserError(
            "the seed was trained with multi_task_dataset: true; pseudo-labeling "
            "reads ESPnet's plain data sets only"
        )
    if config.get("multiple_iterator") and not labeled_anew:
        raise UserError(
            "the seed was trained with multiple_iterator: true (asr.sh "
            "--num_splits_asr), on labeled data in pieces; give them whole by "
            "--labeled DIR, with wav.scp and text, such as dump/raw/train_sp"
        )
