"""Refuse to resume a run with settings, or data, that are not those it began with."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import atomic_write
from espnet_softpl.training.resume.layout import STATE_DIR, has_states

logger = logging.getLogger(__name__)

FILE = "settings.json"
# What may change in the middle of a run: how long it goes on, how it is watched, and
# where it runs. Of the validation data only the choice of the best epochs hangs.
SAFE = {"config", "print_config", "output_dir", "resume", "dry_run", "version", "ngpu"}
SAFE |= {"max_epoch", "patience", "num_workers", "keep_nbest_models", "num_att_plot"}
SAFE |= {"init_param", "ignore_init_mismatch", "unused_parameters", "local_rank"}
SAFE |= {"pl_samples", "pl_max_bad_share", "pl_allow_changed_resume", "detect_anomaly"}
SAFE |= {"unlabeled_oracle_text", "nbest_averaging_interval", "required"}
SAFE |= {"distributed"}  # The snapshot has the number of processes, and says it.
SAFE_BEGINNINGS = ("valid_", "log_", "use_tensorboard", "use_matplotlib", "use_wandb")
SAFE_BEGINNINGS += ("wandb_", "dist_", "multiprocessing_", "cudnn_", "create_graph_")
SAFE_BEGINNINGS += ("best_model_", "early_stopping_", "max_cache_")
LONGEST = 80  # Letters of a value in a message.


def fingerprint(args: argparse.Namespace) -> dict[str, str]:
    """Return what must stay as it is, by the option's name, in words.

    Of a file it is a digest of what is in it: data may be moved but not exchanged.

    >>> fingerprint(Namespace(seed=1, optim_conf={"lr": 0.1}, max_epoch=9))
    {'seed': '1', 'optim_conf.lr': '0.1'}
    """
    found: dict[str, str] = {}
    for name, value in sorted(vars(args).items()):
        if name not in SAFE and not name.startswith(SAFE_BEGINNINGS):
            _add(found, name, value)
    return found


def _add(found: dict[str, str], name: str, value: Any) -> None:
    """Add a setting; those of a mapping, or of lists with files, one by one."""
    if isinstance(value, Mapping):
        for key, inner in sorted(value.items(), key=lambda item: str(item[0])):
            _add(found, f"{name}.{key}", inner)
    elif isinstance(value, str) and os.path.isfile(value):  # noqa: PTH113
        found[name] = f"contents {_digest(value)}"
    elif _holds_file(value):
        for number, part in enumerate(value, 1):
            _add(found, f"{name} {number}", part)
    else:
        found[name] = json.dumps(value, default=str, sort_keys=True)


def _holds_file(value: Any, depth: int = 2) -> bool:
    """Tell whether a word in a list, or in a list of lists, is a file."""
    if isinstance(value, str):
        return os.path.isfile(value)  # noqa: PTH113
    listed = isinstance(value, (list, tuple)) and depth > 0
    return listed and any(_holds_file(part, depth - 1) for part in value)


def _digest(file: str) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]


def check(
    output_dir: Path, settings: Mapping[str, str], resume: bool, allow: bool
) -> None:
    """Compare a resumed run's settings with those it began with, and write them.

    UserError if some have changed, unless that is allowed.
    """
    file = output_dir / STATE_DIR / FILE
    if resume and file.exists() and has_states(output_dir):
        try:
            before = dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UserError(f"cannot resume: {file} is damaged: {error}") from error
        listed = "; ".join(
            f"{name}: {_shown(before.get(name))} -> {_shown(settings.get(name))}"
            for name in sorted({*before, *settings})
            # None is as good as not there: a later version may have more options.
            if before.get(name, "null") != settings.get(name, "null")
        )
        if not listed:
            return
        if not allow:
            raise UserError(
                f"cannot resume: the run began with other settings or data (then -> "
                f"now): {listed}. Put them back, start again in a new --output_dir, or "
                f"say --pl_allow_changed_resume true"
            )
        logger.warning("The run goes on with changed settings: %s", listed)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as stream:
        json.dump(dict(settings), stream, indent=1)


def _shown(value: str | None) -> str:
    value = "not set" if value is None else value
    return value if len(value) <= LONGEST else f"{value[:LONGEST]}..."
