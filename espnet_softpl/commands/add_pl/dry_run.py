"""What only ESPnet can tell of a configuration: that it is legal, builds and loads."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from espnet_softpl.core import errors
from espnet_softpl.core.errors import UserError
from espnet_softpl.data import tables
from espnet_softpl.training.lengths import usable_shape_file
from espnet_softpl.training.task import SoftPLTask


@functools.lru_cache(maxsize=1)
def get_defaults() -> dict[str, Any]:
    """Return the default of every option of the training command."""
    return vars(SoftPLTask.get_parser().parse_args([]))


def load_state(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Load the parameters of a trained model.

    Args:
        checkpoint: What ESPnet's `--init_param` takes.

    Returns:
        Tensors by name.

    Raises:
        UserError: It is missing, cannot be read, or is something else.
    """
    if not checkpoint.is_file():
        raise UserError(f"init_param: {checkpoint} does not exist")
    if ":" in str(checkpoint):
        raise UserError(
            f"init_param: {checkpoint} has a colon in its path, where ESPnet takes the "
            f"file's name to end; rename it"
        )
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # What torch raises is not documented.
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"init_param: {checkpoint} cannot be read as the parameters of a model: "
            f"{reason}. Give a file such as valid.acc.ave.pth by --init_param; "
            f"checkpoint.pth, ESPnet's state of a training, is none"
        ) from error
    state = state.get("module", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(
        isinstance(value, torch.Tensor) for value in state.values()
    ):
        raise UserError(
            f"init_param: {checkpoint} holds something else than the parameters of a "
            f"model. Give a file such as valid.acc.ave.pth, not checkpoint.pth"
        )
    return state


def has_batch_norm(state: Mapping[str, torch.Tensor]) -> bool:
    """Tell from a model's parameters whether it has batch norm."""
    return any(name.endswith("running_mean") for name in state)


def token_counter(config: Mapping[str, Any]) -> Callable[[str, str], int]:
    """Return a function that counts tokens as ESPnet's training would.

    Args:
        config: A seed's configuration.

    Returns:
        The number of tokens of (utterance id, transcript).

    Raises:
        UserError: The tokenizer cannot be built.
    """
    args = argparse.Namespace(**{**get_defaults(), **config})
    try:
        preprocess = SoftPLTask.build_preprocess_fn(args, train=False)
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise UserError(f"the seed's tokenizer cannot be built: {error}") from error
    return lambda uid, text: len(preprocess(uid, {"text": text})["text"])


def check(values: Mapping[str, Any], directory: Path) -> argparse.Namespace:
    """Read a configuration as the training would, build its model, and load it.

    Args:
        values: The configuration.
        directory: An empty directory, for what building writes.

    Returns:
        The parsed options, with `output_dir` in that directory.

    Raises:
        UserError: Something cannot work. The checks of the command line end the process
            themselves, with status 2.
    """
    file = directory / "config.yaml"
    file.write_text(yaml.safe_dump(dict(values), sort_keys=False), encoding="utf-8")
    command = ["--config", str(file), "--output_dir", str(directory / "exp")]
    args = SoftPLTask.get_parser().parse_args(command)
    SoftPLTask.check_required_command_args(args)
    try:
        model = SoftPLTask.build_model(args)
    except UserError:
        raise
    except Exception as error:  # Whatever the parts of the model raise.
        raise UserError(
            f"the seed's model cannot be built here: {type(error).__name__}: {error}. "
            f"Does it load in ESPnet (espnet2.bin.asr_inference) on this machine?"
        ) from error
    check_state(model, load_state(Path(args.init_param[0])), args.init_param[0])
    return args


def check_state(
    model: torch.nn.Module, state: Mapping[str, torch.Tensor], source: str
) -> None:
    """Refuse parameters that are not exactly those of a model.

    Args:
        model: The model as its configuration makes it.
        state: The parameters.
        source: Their file, for the message.

    Raises:
        UserError: With the names that are missing, unknown or of another shape.
    """
    wanted = model.state_dict()
    problems = {
        "are missing": wanted.keys() - state.keys(),
        "are not in the model": state.keys() - wanted.keys(),
        "have another shape": {
            name
            for name in wanted.keys() & state.keys()
            if wanted[name].shape != state[name].shape
        },
    }
    found = [
        f"{len(names)} {what} ({errors.name_some(names)})"
        for what, names in problems.items()
        if names
    ]
    if found:
        raise UserError(
            f"init_param: the parameters in {source} are not those of the configured "
            f"model: {'; '.join(found)}. Give the file of this experiment by "
            "--init_param"
        )


def unlabeled_seconds(args: argparse.Namespace, rate: float) -> list[float]:
    """Return the durations of the unlabeled utterances that training would use.

    Args:
        args: What `check` has returned.
        rate: Samples per second.

    Returns:
        Seconds of each.
    """
    lengths = tables.read_lengths(usable_shape_file(args))
    return [length / rate for length in lengths.values()]
