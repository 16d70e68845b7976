#!/usr/bin/env python3
"""Check that a packed model has all that Speech2Text needs to load it."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import yaml
from datadir import RecipeError, run_main


def check(path: Path) -> list[str]:
    """Return the names in an archive of ``espnet2.bin.pack``.

    Args:
        path: The archive.

    Raises:
        RecipeError: It is damaged, or lacks its description, the configuration, the
            model, or a file that the configuration refers to.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            names = archive.namelist()
            meta = yaml.safe_load(archive.read("meta.yaml"))
            config_name = meta["yaml_files"]["asr_train_config"]
            model_name = meta["files"]["asr_model_file"]
            config = yaml.safe_load(archive.read(config_name))
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise RecipeError(f"{path} is no complete ESPnet archive: {error}") from error
    if damaged:
        raise RecipeError(f"{path}: {damaged} is damaged")
    needed = [model_name]
    if config.get("normalize") == "global_mvn":
        needed.append(config["normalize_conf"]["stats_file"])
    if config.get("bpemodel"):
        needed.append(config["bpemodel"])
    missing = [name for name in needed if name not in names]
    if missing:
        raise RecipeError(f"{path} lacks {', '.join(missing)}")
    return names


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("archive", type=Path)
    args = parser.parse_args()
    print(f"{args.archive}: {len(check(args.archive))} files, complete")


if __name__ == "__main__":
    run_main(main)
