"""ESPnet's own files, whole after a kill: a checkpoint in reserve, an end mended.

At the end of epoch e ESPnet's trainer writes, in place and in this order,
`checkpoint.pth`, `{e}epoch.pth`, the link `latest.pth`, the links `*.best.pth` and
(every `nbest_averaging_interval` epochs) averages, then removes worse epochs' files
(`espnet2/train/trainer.py`, `Trainer.run`). A run that is killed in between, or whose
disk is full, leaves a torn file, or some of these steps undone. Here `set_aside` keeps
the checkpoint of epoch e - 1 until that of epoch e is whole, and `repair` makes of
whatever is found a directory that ESPnet resumes from as if nothing had happened.

Only one process, that of rank 0, calls `set_aside` and `repair`, and the others wait
until it is done; what else is here only reads.
"""

from __future__ import annotations

import logging
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from espnet2.main_funcs.average_nbest_models import average_nbest_models
from espnet2.train.reporter import Reporter

from espnet_softpl.core.errors import UserError
from espnet_softpl.core.files import sync
from espnet_softpl.training.resume.layout import STATE_DIR, load_checkpoint

logger = logging.getLogger(__name__)


CHECKPOINT = "checkpoint.pth"


PREVIOUS = "previous_checkpoint.pth"  # In STATE_DIR.


WORKSHOP = ".repair"  # In STATE_DIR; holds a file until it is whole.


# What `zipfile` raises, beside saying which member is bad, for damaged archives.
DAMAGE = (
    zipfile.BadZipFile,
    OSError,  # A file that is missing, an offset that is none, a disk that fails.
    EOFError,
    RuntimeError,  # Takes in NotImplementedError: methods that torch does not use.
    ValueError,
    struct.error,
)


Criteria = Sequence[Sequence[str]]


def is_whole(path: Path) -> bool:
    """Tell whether a file that torch saved is there with all its bytes.

    The end record of the zip archive and the checksum of every member are read; torch
    computes them by default. This reads the whole file: some 0.2 s per GB where it is
    in memory, else as long as the disk takes.

    Args:
        path: The file.

    Returns:
        False where it is missing, cut off or damaged.
    """
    return _is_intact(path, lambda archive: archive.testzip() is None)


def has_end(path: Path) -> bool:
    """Tell whether a file that torch saved has its end, which is written last.

    Args:
        path: The file.

    Returns:
        False where it is missing or cut off. Damage further in is not seen; that
        takes `is_whole`.
    """
    return _is_intact(path, lambda archive: True)


def previous_path(output_dir: Path) -> Path:
    """Name the checkpoint in reserve.

    Args:
        output_dir: The experiment directory.

    Returns:
        Where `set_aside` puts ESPnet's checkpoint of the epoch before.
    """
    return output_dir / STATE_DIR / PREVIOUS


def set_aside(output_dir: Path) -> None:
    """Keep the checkpoint there is, right before ESPnet writes the next one.

    It is renamed, so that ESPnet writes to a new file: no copy and no time, but space
    for a second checkpoint. A checkpoint without its end stays where it is, to be
    written over, and the one in reserve stays too.

    Args:
        output_dir: The experiment directory. A checkpoint in it is this run's: an
            older run's must have been deleted.
    """
    checkpoint, previous = output_dir / CHECKPOINT, previous_path(output_dir)
    if not has_end(checkpoint):
        return
    previous.parent.mkdir(parents=True, exist_ok=True)
    # ESPnet leaves writing to the system; the power may fail before that is done.
    sync(checkpoint)
    os.replace(checkpoint, previous)
    sync(previous.parent)
    sync(output_dir)


def read_reporter(output_dir: Path) -> Reporter:
    """Return ESPnet's reporter as it is in `checkpoint.pth`.

    Args:
        output_dir: The experiment directory.

    Returns:
        The reporter, at the epoch that was saved last; at 0 where none was.
    """
    reporter = Reporter()
    if (output_dir / CHECKPOINT).exists():
        reporter.load_state_dict(load_checkpoint(output_dir / CHECKPOINT)["reporter"])
    return reporter


def epoch_of(output_dir: Path) -> int:
    """Return the epoch in `checkpoint.pth`, 0 where there is none.

    Args:
        output_dir: The experiment directory.
    """
    return read_reporter(output_dir).get_epoch()


def stopped_early(
    output_dir: Path, patience: int | None, early_stopping_criterion: Sequence[str]
) -> bool:
    """Tell whether ESPnet ended the run at the epoch in `checkpoint.pth`.

    A run that is resumed after that (it was killed while the best models were
    averaged) must ask: ESPnet itself judges only after another epoch.

    Args:
        output_dir: The experiment directory, repaired.
        patience: ESPnet's option, in epochs; None is never.
        early_stopping_criterion: Phase, name and mode (`min` or `max`).

    Returns:
        What ESPnet's `Reporter.check_early_stopping` says.
    """
    reporter = read_reporter(output_dir)
    if patience is None or not reporter.has(*early_stopping_criterion[:2]):
        return False
    return reporter.check_early_stopping(patience, *early_stopping_criterion)


def finished_epochs(
    output_dir: Path, criterion: Sequence[str]
) -> list[tuple[int, float]]:
    """List the epochs that are finished, by the checkpoint.

    Args:
        output_dir: The experiment directory.
        criterion: Phase and name of a statistic, and what else there may be.

    Returns:
        Number and value of every epoch that reported it, in order.
    """
    phase, name = criterion[:2]
    stats = read_reporter(output_dir).stats
    return [
        (epoch, float(stats[epoch][phase][name]))
        for epoch in sorted(stats)
        if name in stats[epoch].get(phase, {})
    ]


def repair(
    output_dir: Path,
    best_model_criterion: Criteria,
    keep_nbest_models: int | Sequence[int],
    nbest_averaging_interval: int = 0,
) -> int | None:
    """Make an experiment directory whole, before ESPnet resumes from it.

    Where `checkpoint.pth` is missing or torn, the one in reserve takes its place. Then
    everything that ESPnet does after writing the checkpoint of an epoch is done, where
    it is not done yet. A kill during the repair is mended by the next one.

    Args:
        output_dir: The experiment directory.
        best_model_criterion: ESPnet's option: phase, name and mode of each criterion.
        keep_nbest_models: ESPnet's option.
        nbest_averaging_interval: ESPnet's option.

    Returns:
        The epoch after which training goes on; None where nothing has been saved.

    Raises:
        UserError: No checkpoint is usable although epochs have been finished, or
            another epoch's file, which nothing can replace, is torn.
    """
    shutil.rmtree(output_dir / STATE_DIR / WORKSHOP, ignore_errors=True)
    found = _restore_checkpoint(output_dir)
    if not (output_dir / CHECKPOINT).exists():
        return None
    reporter = read_reporter(output_dir)
    epoch = reporter.get_epoch()
    if found:
        logger.warning("%s; the run is resumed from the end of epoch %d", found, epoch)
    one = isinstance(keep_nbest_models, int)
    keep = [keep_nbest_models] if one else list(keep_nbest_models) or [1]
    end = _EpochEnd(output_dir, reporter, best_model_criterion, keep)
    end.finish(nbest_averaging_interval)
    return epoch


def _restore_checkpoint(output_dir: Path) -> str:
    """Put a whole checkpoint in place, if there is one.

    Args:
        output_dir: The experiment directory.

    Returns:
        What was found, where the checkpoint in reserve had to be taken; else "".

    Raises:
        UserError: There are finished epochs, and no whole checkpoint.
    """
    checkpoint, previous = output_dir / CHECKPOINT, previous_path(output_dir)
    if is_whole(checkpoint):
        return ""
    found = f"{checkpoint} is {'torn' if checkpoint.exists() else 'missing'}"
    if is_whole(previous):
        os.replace(previous, checkpoint)
        sync(output_dir)
        return f"{found}: {previous} takes its place"
    if not checkpoint.exists() and not previous.exists():
        return ""
    epochs = sorted(output_dir.glob("[0-9]*epoch.pth"), key=lambda p: p.stat().st_mtime)
    if not epochs and not previous.exists():
        # Killed in the very first write: there is nothing to go back to but the start.
        checkpoint.unlink()
        logger.warning("%s: no epoch was finished, the run starts anew", found)
        return ""
    reserve = "torn too" if previous.exists() else "missing"
    usable = [path for path in epochs if has_end(path)]
    seed = f" with --init_param {usable[-1]}" if usable else ""
    raise UserError(
        f"cannot resume: {found}, and {previous}, the one before it, is {reserve}. "
        f"Bring one of them back from a copy, or start again in a new "
        f"--output_dir{seed}."
    )


class _EpochEnd:
    """What ESPnet does between the checkpoint of an epoch and the next epoch.

    Args:
        output_dir: The experiment directory.
        reporter: ESPnet's reporter of the checkpoint.
        criteria: ESPnet's best_model_criterion.
        keep: ESPnet's keep_nbest_models, not empty.
    """

    def __init__(
        self,
        output_dir: Path,
        reporter: Reporter,
        criteria: Criteria,
        keep: Sequence[int],
    ) -> None:
        self._dir = output_dir
        self._reporter = reporter
        self._epoch = reporter.get_epoch()
        # ESPnet passes over what this epoch has not reported.
        self._criteria = [c for c in criteria if reporter.has(*c[:2])]
        self._all_criteria = criteria
        self._keep = keep

    def finish(self, averaging_interval: int) -> None:
        """Do what is not done yet, in ESPnet's order.

        Args:
            averaging_interval: ESPnet's nbest_averaging_interval.
        """
        done = self._write_epoch() + self._link()
        if averaging_interval > 0 and self._epoch % averaging_interval == 0:
            done += self._average()
        done += self._remove()
        if done:
            logger.warning(
                "The end of epoch %d was cut off; done now: %s",
                self._epoch,
                ", ".join(done),
            )
        self._check_kept()

    def _name(self, epoch: int) -> str:
        return f"{epoch}epoch.pth"

    def _write_epoch(self) -> list[str]:
        """Write the epoch's model file, unless it is whole and of this checkpoint."""
        path, checkpoint = self._dir / self._name(self._epoch), self._dir / CHECKPOINT
        # An older file is that of an older run in the same directory.
        if is_whole(path) and path.stat().st_mtime_ns >= checkpoint.stat().st_mtime_ns:
            return []
        # torch writes the file's name into the archive: under the right name, in
        # another directory, the bytes are those that ESPnet writes.
        workshop = self._dir / STATE_DIR / WORKSHOP
        workshop.mkdir(parents=True, exist_ok=True)
        try:
            torch.save(
                load_checkpoint(self._dir / CHECKPOINT)["model"], workshop / path.name
            )
            sync(workshop / path.name)
            os.replace(workshop / path.name, path)
        finally:
            # A full disk must not be kept full by a file that is of no use.
            shutil.rmtree(workshop, ignore_errors=True)
        sync(self._dir)
        return [f"wrote {path.name}"]

    def _link(self) -> list[str]:
        """Set `latest.pth`, and `*.best.pth` where this epoch is the best."""
        links = ["latest.pth"]
        for phase, name, mode in self._criteria:
            if self._reporter.get_best_epoch(phase, name, mode) == self._epoch:
                links.append(f"{phase}.{name}.best.pth")
        done = []
        for link in (self._dir / name for name in links):
            if link.is_symlink() and os.readlink(link) == self._name(self._epoch):
                continue
            link.unlink(missing_ok=True)
            link.symlink_to(self._name(self._epoch))
            done.append(f"linked {link.name}")
        return done

    def _average(self) -> list[str]:
        """Average the best models so far, unless that had come to its end."""
        suffix = f"till{self._epoch}epoch"
        # Of each criterion the link is made last.
        links = [
            f"{phase}.{name}.ave.{suffix}.pth" for phase, name, _ in self._criteria
        ]
        if all((self._dir / link).exists() for link in links):
            return []
        average_nbest_models(
            output_dir=self._dir,
            reporter=self._reporter,
            best_model_criterion=self._all_criteria,
            nbest=list(self._keep),
            suffix=suffix,
        )
        return [f"averaged {suffix}"]

    def _best(self) -> set[int]:
        """Return the epochs that are among the best by some criterion."""
        return {
            epoch
            for criterion in self._criteria
            for epoch in self._reporter.sort_epochs(*criterion)[: max(self._keep)]
        }

    def _remove(self) -> list[str]:
        """Remove the files of earlier epochs that are not among the best."""
        done = []
        for epoch in sorted(set(range(1, self._epoch)) - self._best()):
            path = self._dir / self._name(epoch)
            if path.exists():
                path.unlink()
                done.append(f"removed {path.name}")
        return done

    def _check_kept(self) -> None:
        """Say which of the best epochs' files the averages would miss.

        Raises:
            UserError: One of them is torn.
        """
        missing = []
        for epoch in sorted(self._best() - {self._epoch}):
            path = self._dir / self._name(epoch)
            if not path.exists():
                missing.append(path.name)
            elif not has_end(path):
                raise UserError(
                    f"cannot resume: {path} is torn, and it is among the best models, "
                    f"which are averaged in the end. Bring it back from a copy, or "
                    f"remove it and lower keep_nbest_models."
                )
        if missing:
            logger.warning(
                "Missing: %s. ESPnet's averages in the end need them, unless better "
                "epochs come or keep_nbest_models is lowered",
                ", ".join(missing),
            )


def _is_intact(path: Path, check: Callable[[zipfile.ZipFile], bool]) -> bool:
    """Open an archive and check it; False where it is missing or damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return check(archive)
    except (PermissionError, IsADirectoryError):
        raise  # It is not the file's bytes that are wrong.
    except DAMAGE:
        return False
