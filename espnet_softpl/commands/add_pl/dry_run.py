"""What only ESPnet can tell of a configuration: that it is allowed, and builds."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from espnet_softpl.commands.experiment import Weights
from espnet_softpl.core.errors import UserError, refusing
from espnet_softpl.core.modules import check_structure
from espnet_softpl.training.task import SoftPLTask


@functools.lru_cache(maxsize=1)
def get_defaults() -> dict[str, Any]:
    """Return the default of every option of the training command."""
    return vars(SoftPLTask.get_parser().parse_args([]))


def token_counter(config: Mapping[str, Any]) -> Callable[[str, str], int]:
    """Return what counts the tokens of (utterance id, transcript) as ESPnet would."""
    args = argparse.Namespace(**{**get_defaults(), **config})
    try:
        preprocess = SoftPLTask.build_preprocess_fn(args, train=False)
    except (OSError, RuntimeError, ValueError, ImportError) as error:
        raise UserError(
            f"the base model's tokenizer cannot be built: {error}"
        ) from error
    return lambda uid, text: len(preprocess(uid, {"text": text})["text"])


def check(
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
