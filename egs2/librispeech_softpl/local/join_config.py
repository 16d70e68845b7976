#!/usr/bin/env python3
"""Join a configuration with the one that it is based on, and print it.

    local/join_config.py conf/tuning/train_pl_soft_ce.yaml

`base_config: FILE` in a YAML file names another, from the file's own directory; that
one may have a base too. Mappings are joined key by key, anything else is replaced.
ESPnet takes the result; it refuses a file that still has a base_config.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import yaml

# Not from datadir, which takes seconds to import: run.sh starts this often.
from espnet_softpl.core.errors import UserError as RecipeError


def chain(path: Path) -> list[Path]:
    """Return a configuration and those below it, the base of all first.

    Raises:
        RecipeError: A file is missing or no mapping, or is based on itself.
    """
    files = [path]
    while base := read_yaml(files[0]).get("base_config"):
        base = Path(os.path.normpath(files[0].parent / base))
        if base in map(Path, map(os.path.normpath, files)):
            raise RecipeError(f"{path} is based on itself, by {files[0]}")
        files.insert(0, base)
    return files


def read_yaml(path: Path) -> dict[str, Any]:
    """Read one file.

    Raises:
        RecipeError: It is missing, or no YAML mapping.
    """
    try:
        conf = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: {error}") from error
    if not isinstance(conf, dict):
        raise RecipeError(f"{path} must be a YAML mapping of options")
    return conf


def join(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """Return the base with the overlay's values in the place of its own."""
    result = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = join(base[key], value) if both else value
    return result


def read_config(path: Path) -> dict[str, Any]:
    """Read a configuration, joined with those that it is based on.

    Raises:
        RecipeError: See `chain`.
    """
    conf: dict[str, Any] = {}
    for file in chain(path):
        conf = join(conf, read_yaml(file))
    conf.pop("base_config", None)
    return conf


def main() -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path, help="the YAML file")
    parser.add_argument("--out", type=Path, help="file to write (default: print it)")
    args = parser.parse_args()
    try:
        files = " ".join(map(str, chain(args.config)))
        conf = read_config(args.config)
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    text = f"# Joined by local/join_config.py: {files}\n"
    text += yaml.safe_dump(conf, sort_keys=False, allow_unicode=True)
    if args.out is None:
        print(text, end="")
        return 0
    args.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.out.with_name(f".{args.out.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
