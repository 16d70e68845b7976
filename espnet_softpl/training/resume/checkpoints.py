"""ESPnet's own files: written whole, and an epoch's end finished after a kill.

At the end of epoch e ESPnet's trainer writes, in this order, `checkpoint.pth`,
`{e}epoch.pth`, the link `latest.pth`, the links `*.best.pth` and (every
`nbest_averaging_interval` epochs) averages, then removes worse epochs' files
(`Trainer.run`). With `whole_files` it renames each file when it is written: after a
kill, or on a full disk, `checkpoint.pth` is that of epoch e - 1 or of epoch e.
`finish_epoch` does what a kill left undone of the steps after it.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import importlib
import itertools
import logging
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch
from espnet2.main_funcs.average_nbest_models import average_nbest_models
from espnet2.train.distributed_utils import get_rank
from espnet2.train.reporter import Reporter

from espnet_softpl.cache import CACHE_DIR
from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import check_sums, reading, save_atomically
from espnet_softpl.monitors.samples import SAMPLES_DIR
from espnet_softpl.training.hooks import replaced
from espnet_softpl.training.resume.layout import (
    CHECKPOINT,
    STATE_DIR,
    load_checkpoint,
)
from espnet_softpl.training.resume.snapshot import ADVICE

logger = logging.getLogger(__name__)

Criterion = Sequence[str]  # Phase, statistic, "min" or "max".

# The modules of ESPnet that save and load models, by the name `torch`.
WRITERS = ("espnet2.train.trainer", "espnet2.main_funcs.average_nbest_models")
LOCK = ".lock"  # In the experiment directory; says who trains there.
_held: list[TextIO] = []  # A loader, forked, must not keep the lock of a dead run.
os.register_at_fork(after_in_child=lambda: [file.close() for file in _held])


@contextlib.contextmanager
def sole_run(options: Any) -> Iterator[None]:
    """Keep `output_dir` for this training, or refuse it if another run has it.

    The lock, of its first process, is the kernel's, so it ends with the process,
    however that ends. It comes before anything is written: ESPnet writes `config.yaml`
    while it builds the model.
    """
    distributed = getattr(options, "distributed", False)
    rank = distributed and get_rank(options.dist_rank, options.dist_launcher)
    if rank or options.dry_run or options.collect_stats:
        yield
        return
    path = Path(options.output_dir) / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise UserError(
                f"output_dir: another run trains in {path.parent} "
                f"({file.read().strip() or 'it has just begun'}). Wait until it ends, "
                "or take another --output_dir"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            logger.warning("%s knows no locks: start one run there only", path.parent)
        file.truncate(0)
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        file.write(f"process {os.getpid()} on {platform.node()} since {now}\n")
        file.flush()
        _held.append(file)
        try:
            yield
        finally:
            _held.remove(file)


class _TorchSavingWhole:
    """The module `torch` as ESPnet sees it: `save` is atomic, `load` checks sums."""

    save = staticmethod(save_atomically)

    @staticmethod
    def load(path: Path, *args: Any, **kwargs: Any) -> Any:
        with reading(Path(path)):
            check_sums(Path(path))
            return torch.serialization.load(path, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@contextlib.contextmanager
def whole_files() -> Iterator[None]:
    """Let ESPnet's trainer write files that are whole, and read none that is not."""
    with contextlib.ExitStack() as stack:
        for module in map(importlib.import_module, WRITERS):
            stack.enter_context(replaced(module, "torch", _TorchSavingWhole()))
        yield


def read_reporter(output_dir: Path) -> Reporter:
    """Return ESPnet's reporter of `checkpoint.pth`; at epoch 0 if there is none."""
    reporter = Reporter()
    if (output_dir / CHECKPOINT).exists():
        reporter.load_state_dict(load_checkpoint(output_dir / CHECKPOINT)["reporter"])
    return reporter


def early_stop(
    output_dir: Path, patience: int | None, criterion: Sequence[str]
) -> int | None:
    """Return the epoch in `checkpoint.pth` if ESPnet ended the run there.

    A run that was killed while the best models were averaged must ask when it is
    resumed: ESPnet itself judges only after another epoch.
    """
    reporter = read_reporter(output_dir)
    if patience is None or not reporter.has(*criterion[:2]):
        return None
    stopped = reporter.check_early_stopping(patience, *criterion)
    return reporter.get_epoch() if stopped else None


def finished_epochs(
    output_dir: Path, criterion: Sequence[str]
) -> list[tuple[int, float]]:
    """List the epochs in `checkpoint.pth` that report a statistic, and its value."""
    phase, name = criterion[:2]
    stats = read_reporter(output_dir).stats
    return [
        (epoch, float(stats[epoch][phase][name]))
        for epoch in sorted(stats)
        if name in stats[epoch].get(phase, {})
    ]


def begin_directory(output_dir: Path, options: Any) -> None:
    """Make an experiment directory fit for a run.

    With ESPnet's `resume`, what a kill may have cut off is finished. Without, what an
    earlier run could be resumed from, and its models, go into a new `previous_run/`,
    `previous_run2/` and so on, for this run writes its own.
    """
    if options.resume:
        finish_epoch(output_dir, options)
        return
    states = (output_dir / name for name in (STATE_DIR, CACHE_DIR, SAMPLES_DIR))
    there = [*filter(Path.exists, states), *output_dir.glob("*.pth")]
    if not there:
        return
    numbers = itertools.chain([""], itertools.count(2))
    names = (output_dir / f"previous_run{number}" for number in numbers)
    previous = next(path for path in names if not path.exists())
    logger.warning("An earlier run is not resumed; its files are now in %s", previous)
    previous.mkdir()
    for path in there:
        os.replace(path, previous / path.name)


def finish_epoch(output_dir: Path, options: Any) -> int | None:
    """Do what ESPnet does after writing the checkpoint of an epoch, if not done yet.

    It is done in ESPnet's order, and a kill meanwhile is made good by the next call.
    Returned is the epoch after which training goes on; None if nothing is saved.
    """
    for directory in (output_dir, output_dir / STATE_DIR):
        for unfinished in directory.glob(".*.pth.tmp"):
            unfinished.unlink()
    checkpoint = output_dir / CHECKPOINT
    if not checkpoint.exists():
        return None
    try:
        check_sums(checkpoint)
        saved = load_checkpoint(checkpoint)
    except UserError as error:
        raise UserError(
            f"cannot resume: {error}. Bring it back from a copy. {ADVICE}"
        ) from error
    reporter = Reporter()
    reporter.load_state_dict(saved["reporter"])
    epoch = reporter.get_epoch()
    # ESPnet passes over what this epoch has not reported.
    criteria = [c for c in options.best_model_criterion if reporter.has(*c[:2])]
    keep = options.keep_nbest_models
    keep = [keep] if isinstance(keep, int) else list(keep) or [1]
    model = output_dir / f"{epoch}epoch.pth"
    best_links = [
        f"{phase}.{name}.best.pth"
        for phase, name, mode in criteria
        if reporter.get_best_epoch(phase, name, mode) == epoch
    ]
    done = []
    # An older file is that of an older run in the same directory.
    if not model.exists() or model.stat().st_mtime_ns < checkpoint.stat().st_mtime_ns:
        save_atomically(saved["model"], model)
        done.append(f"wrote {model.name}")
    done += _link(model, ["latest.pth", *best_links])
    done += _average(output_dir, reporter, criteria, keep, options)
    best = {e for c in criteria for e in reporter.sort_epochs(*c)[: max(keep)]}
    done += _remove_worse(output_dir, epoch, best)
    if done:
        logger.warning(
            "The end of epoch %d was cut off; done now: %s", epoch, ", ".join(done)
        )
    return epoch


def _link(model: Path, names: Sequence[str]) -> Iterator[str]:
    """Point the links of these names to a model; say which did not."""
    for link in map(model.with_name, names):
        if not (link.is_symlink() and os.readlink(link) == model.name):
            link.unlink(missing_ok=True)
            link.symlink_to(model.name)
            yield f"linked {link.name}"


def _average(
    output_dir: Path,
    reporter: Reporter,
    criteria: Sequence[Criterion],
    keep: list[int],
    options: Any,
) -> Iterator[str]:
    """Write the averages of ESPnet's interval, if this epoch ends one."""
    interval, epoch = options.nbest_averaging_interval, reporter.get_epoch()
    suffix = f"till{epoch}epoch"
    # ESPnet makes the link to the average last.
    averages = [f"{phase}.{name}.ave.{suffix}.pth" for phase, name, _ in criteria]
    averaged = all((output_dir / name).exists() for name in averages)
    if interval > 0 and epoch % interval == 0 and not averaged:
        with whole_files():
            average_nbest_models(
                output_dir=output_dir,
                reporter=reporter,
                best_model_criterion=options.best_model_criterion,
                nbest=keep,
                suffix=suffix,
            )
        yield f"averaged {suffix}"


def _remove_worse(output_dir: Path, epoch: int, best: set[int]) -> Iterator[str]:
    """Remove the models of earlier epochs that are not among the best."""
    earlier = {e: output_dir / f"{e}epoch.pth" for e in range(1, epoch)}
    there = {e for e, path in earlier.items() if path.exists()}
    for worse in sorted(there - best):
        earlier[worse].unlink()
        yield f"removed {earlier[worse].name}"
    if missing := [earlier[e].name for e in sorted(best & earlier.keys() - there)]:
        logger.warning(
            "Missing: %s. ESPnet's averages in the end need them, unless better epochs "
            "come or keep_nbest_models is lowered",
            ", ".join(missing),
        )
