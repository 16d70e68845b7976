"""The recipe: a copy to run, its environment, its configurations."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests import ROOT
from tests.support import warm_python

RECIPE = ROOT / "egs2" / "librispeech_softpl"
GENERATED = ("data", "downloads", "dump", "exp", "__pycache__")
sys.path.append(str(RECIPE / "local"))

from join_config import chain, read_config  # noqa: E402

__all__ = ["GENERATED", "RECIPE", "chain", "copy_recipe", "environment", "joined"]
__all__ += ["read_config", "run"]


def copy_recipe(root: Path) -> Path:
    """Copy what the recipe consists of, so that tests leave the checkout alone."""
    target = root / "egs2" / "librispeech_softpl"
    shutil.copytree(RECIPE, target, ignore=shutil.ignore_patterns(*GENERATED))
    shutil.copytree(ROOT / "tools", root / "tools")
    return target


def environment(**more: str) -> dict[str, str]:
    """Return the environment of the recipe: this Python, this checkout."""
    python_path = os.pathsep.join(filter(None, [str(ROOT), os.getenv("PYTHONPATH")]))
    return {
        **os.environ,
        "PYTHON": warm_python.executable(),
        "PYTHONPATH": python_path,
        **more,
    }


def run(
    recipe: Path, *options: object, timeout: float = 300, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run the recipe with its output and errors in one stream."""
    return subprocess.run(
        ["./run.sh", *map(str, options)],
        cwd=recipe,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


def joined(path: Path, directory: Path) -> Path:
    """Write a configuration, joined with its bases, as ESPnet takes it."""
    target = directory / f"joined_{path.name}"
    target.write_text(yaml.safe_dump(read_config(path), sort_keys=False))
    return target
