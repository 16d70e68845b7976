"""The ESPnet options of pseudo-labeling."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import Any

import yaml
from espnet2.utils import types
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_softpl import cache, criteria, filters, regularizers, shaping, teacher
from espnet_softpl.core.registry import Registry
from espnet_softpl.monitors import guard
from espnet_softpl.training.help import help_of, wrapped
from espnet_softpl.training.keys import OTHERS, PARTS, UNLABELED_DATA
from espnet_softpl.training.schedule import Schedule

# Options that may be given several times; argparse adds them to the file's values.
LISTS = (
    "train_data_path_and_name_and_type",
    "train_shape_file",
    "valid_data_path_and_name_and_type",
    "valid_shape_file",
    "fold_length",
    UNLABELED_DATA,
    "unlabeled_shape_file",
)

REGISTRIES: dict[str, Registry] = {
    module.REGISTRY.key: module.REGISTRY
    for module in (cache, criteria, filters, guard, regularizers, shaping, teacher)
}


def classes_of(key: str) -> dict[str, Callable[..., Any]]:
    """Return the classes whose settings `<key>_conf` takes; of an only one under ""."""
    if key == "pl_schedule":
        return {"": Schedule}
    # The guard's names are one class with three values of its setting `action`.
    if key == "pl_guard":
        return {"": guard.REGISTRY.get_class("warn")}
    return REGISTRIES[key].classes()


def prefer_command_line(args: argparse.Namespace) -> None:
    """Let lists of the command line replace those of the configuration file, in place.

    A complete configuration can so be given to ESPnet's asr.sh, which names the data on
    the command line. ESPnet's own parser appends them to the file's, and its data set
    then refuses the second `speech`.
    """
    if args.config is None:
        return
    with open(args.config, encoding="utf-8") as file:
        config = yaml.safe_load(file)
    for name in LISTS:
        of_file, both = list(config.get(name) or ()), list(getattr(args, name))
        if of_file and len(both) > len(of_file) and both[: len(of_file)] == of_file:
            setattr(args, name, both[len(of_file) :])


def add_pl_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of pseudo-labeling to ESPnet's parser of training options."""
    group = parser.add_argument_group("Pseudo-labeling related")
    for option, (default, text) in PARTS.items():
        key = option.removeprefix("--").removesuffix("_conf")
        part = key.removeprefix("pl_")
        if option.endswith("_conf"):
            what = f"Settings of the {part}"
            if text and key in REGISTRIES:
                what += f"; of several {part}s by name, as {text}"
            text = help_of(what, classes_of(key))
            keywords = dict(action=NestedDictAction, metavar="NAME=VALUE")
        elif isinstance(default, list):
            names = REGISTRIES[key].allowed()
            text = wrapped(f"{text}. Allowed: one or several of {names}")
            keywords = dict(type=str, nargs="*")
        else:
            text = wrapped(f"{text}. Allowed: {REGISTRIES[key].allowed()}")
            keywords = dict(type=str if default else types.str_or_none)
        group.add_argument(option, default=copy.copy(default), help=text, **keywords)
    for option, (kind, default, text) in OTHERS.items():
        convert = getattr(types, kind) if isinstance(kind, str) else kind
        keywords = dict(action="append" if isinstance(default, list) else "store")
        default = copy.copy(default)
        group.add_argument(
            option, type=convert, default=default, help=wrapped(text), **keywords
        )
