"""Is a trained experiment fit to be the base model: by its names, and by ESPnet?"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from espnet_softpl.commands.experiment import Experiment, Weights
from espnet_softpl.core.errors import UserError, refusing
from espnet_softpl.core.modules import check_structure
from espnet_softpl.training.task import SoftPLTask

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


def check_model(config: Mapping[str, Any], labeled_anew: bool = False) -> None:
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


@functools.lru_cache(maxsize=1)
def get_defaults() -> dict[str, Any]:
    """Return the default of every option of the training command."""
    return vars(SoftPLTask.get_parser().parse_args([]))


def token_counter(config: Mapping[str, Any]) -> Callable[[str, str], int]:
    """Return what counts the tokens of (utterance id, transcript) as ESPnet would."""
    args = argparse.Namespace(**{**get_defaults(), **config})
    with refusing("the base model's tokenizer cannot be built"):
        preprocess = SoftPLTask.build_preprocess_fn(args, train=False)
    return lambda uid, text: len(preprocess(uid, {"text": text})["text"])


def check_builds(
    values: Mapping[str, Any], weights: Weights, directory: Path
) -> argparse.Namespace:
    """Read a configuration as the training would, build its model, compare weights.

    Returns the parsed options, with `output_dir` in the given directory, which is made.
    UserError if something cannot work; the checks of the command line end the process
    themselves, with status 2.
    """
    directory.mkdir()
    file = directory / "config.yaml"
    file.write_text(yaml.safe_dump(dict(values), sort_keys=False), encoding="utf-8")
    command = ["--config", str(file), "--output_dir", str(directory / "exp")]
    args = SoftPLTask.get_parser().parse_args(command)
    SoftPLTask.check_required_command_args(args)
    advice = ". Does it load in ESPnet (espnet2.bin.asr_inference) on this machine?"
    with refusing("the base model cannot be built here", advice):
        model = SoftPLTask.build_model(args)
    what = f"--init_param: the parameters in {weights.source}"
    check_structure(weights.state, model.state_dict(), what)
    return args
