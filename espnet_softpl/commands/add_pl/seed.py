"""A trained ESPnet experiment as the seed of pseudo-labeling: read, found complete.

No ESPnet is needed: configuration and file names say it all. What building the model
shows is the business of `dry_run`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from espnet_softpl.commands.experiment import Seed
from espnet_softpl.core.errors import UserError

DATA_OPTIONS = {"train": "--labeled", "valid": "--valid"}


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
