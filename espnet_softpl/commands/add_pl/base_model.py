"""Is a trained experiment complete, and fit to be the base model, by its names?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from espnet_softpl.commands.experiment import Experiment
from espnet_softpl.core.errors import UserError

DATA_OPTIONS = {"train": "--labeled", "valid": "--valid"}


def renaming(moves: Sequence[tuple[str, str]]) -> Callable[[str], str]:
    """Return a renaming for `relocate`, from pairs of an old and a new path."""

    def rename(name: str) -> str:
        for old, new in moves:
            old = old.rstrip("/")
            # A bare word such as `bpe` is a choice, even if a directory is called so.
            same = name == old and ("/" in name or Path(name).suffix)
            if same or name.startswith(f"{old}/"):
                return new.rstrip("/") + name[len(old) :]
        return name

    return rename


def _named_files(base: Experiment) -> Iterator[tuple[str, str]]:
    """Yield the keys and names of all files that a training would read."""
    for part in DATA_OPTIONS:
        for key in (f"{part}_data_path_and_name_and_type", f"{part}_shape_file"):
            for entry in base.config.get(key) or ():
                yield key, entry if isinstance(entry, str) else entry[0]
    for key in ("non_linguistic_symbols", "rir_scp", "noise_scp"):
        name = base.config.get(key)
        if isinstance(name, str) and name.lower() != "none":
            yield key, name
    yield from base.needed_files().items()


def check_files(base: Experiment) -> None:
    """Refuse a base model without files that its configuration names, telling all."""
    missing = sorted(
        (key, name)
        for key, name in set(_named_files(base))
        if not name or not Path(name).exists()
    )
    if not missing:
        return
    lines = [f"files of the base model {base.directory} do not exist:"]
    for key, name in missing:
        option = DATA_OPTIONS.get(key.partition("_")[0])
        wanted = f"{option} DIR" if option else f"--moved {name or 'OLD'} NEW"
        lines.append(f"  {key}: {name or '(not named)'}   (give {wanted})")
    if base.model_file is not None:
        lines.append(
            "A packed model comes without data: give --labeled DIR --valid DIR"
        )
    else:
        for directory in base.directory.resolve().parents:
            if any(name and (directory / name).exists() for _, name in missing):
                lines.append(
                    f"Paths of the base model are relative to {directory}: run this "
                    f"command, and the training, there"
                )
                break
    lines.append(
        "--labeled and --valid take directories with wav.scp and text; --moved OLD NEW "
        "renames a file or a whole directory, such as --moved dump elsewhere/dump"
    )
    raise UserError("\n".join(lines))


def check_model(config: dict[str, Any], labeled_anew: bool = False) -> None:
    """Refuse a model that cannot go on with pseudo-labels, whatever the options."""
    model = config.get("model") or "espnet"
    weight = (config.get("model_conf") or {}).get("ctc_weight", 0.5)
    reasons = {
        f"is {model!r}; only 'espnet' (CTC, attention, transducer and their hybrids) "
        f"can learn from pseudo-labels": model != "espnet",
        "was trained with model_conf.ctc_weight: 0, so it has no CTC head, and the "
        "teacher labels with CTC. Train it with a weight above 0 (0.3 is common in "
        "hybrids); an untrained head labels nothing of use": weight == 0.0,
        "was trained with use_adapter: true; adapters are not supported. Merge them "
        "into the model first, and set use_adapter: false": config.get("use_adapter"),
        "was trained with multi_task_dataset: true; pseudo-labeling reads ESPnet's "
        "plain data sets only": config.get("multi_task_dataset"),
        "was trained with multiple_iterator: true (asr.sh --num_splits_asr), on "
        "labeled data in pieces; give them whole by --labeled DIR, with wav.scp and "
        "text, such as dump/raw/train_sp": (
            config.get("multiple_iterator") and not labeled_anew
        ),
    }
    for reason, applies in reasons.items():
        if applies:
            raise UserError(f"the base model {reason}")
