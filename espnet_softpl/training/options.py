"""The ESPnet options of pseudo-labeling, their help made from docstrings."""

from __future__ import annotations

import argparse
import copy
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml
from espnet2.utils import types
from espnet2.utils.nested_dict_action import NestedDictAction

from espnet_softpl import cache, criteria, filters, regularizers, shaping, teacher
from espnet_softpl.core.registry import Registry
from espnet_softpl.monitors import guard
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

WIDTH = 64  # Columns of help text, beside the 24 that argparse leaves for options.
SECTION = re.compile(r"^(?:Args|Attributes):\n((?:[ ]{4}.*\n|\n)+)", re.M)
ENTRY = re.compile(r"^ {4}(\w+): ((?:.*\n)(?:(?: {5,}.*)?\n)*)", re.M)

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


def described(factory: Callable[..., Any]) -> dict[str, str]:
    """Read what the docstrings of a class and its bases say of its settings, by name.

    The factory is a class or a partial of one. Without docstrings (`python -OO`) the
    answer is empty.
    """
    factory = getattr(factory, "func", factory)
    return {
        name: " ".join(entry.split())
        for cls in reversed(getattr(factory, "__mro__", (factory,)))
        for section in SECTION.findall(inspect.cleandoc(cls.__doc__ or "") + "\n")
        for name, entry in ENTRY.findall(section)
    }


def settings(factory: Callable[..., Any]) -> Iterator[str]:
    """Yield a text for each setting, e.g. `alpha=0.5: share, in [0, 1]`."""
    texts = described(factory)
    for name, parameter in inspect.signature(factory).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        value = parameter.default
        default = "" if value is parameter.empty else f"={value}"
        yield f"{name}{default}: {texts.get(name, '')}".removesuffix(": ")


def wrapped(text: str, indent: str = "") -> str:
    """Break a text into lines, for ESPnet shows help as it is written.

    All lines except the first begin with `indent`; that has four spaces less. Percent
    signs are doubled, as argparse wants them.
    """
    lines = textwrap.fill(
        " ".join(text.split()),
        WIDTH,
        initial_indent=indent[:-4],
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines.replace("%", "%%")


def help_of(what: str, parts: Mapping[str, Callable[..., Any]]) -> str:
    """Describe an option that takes settings of parts; the only part's name is ""."""
    lines = [f"{wrapped(what)} (default: %(default)s)"]
    for name, factory in parts.items():
        texts = [wrapped(text, " " * 6) for text in settings(factory)]
        if name:
            lines.append(f"{name}:" if texts else f"{name}: no settings")
        lines += texts
    return "\n".join(lines)
