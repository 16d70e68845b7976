"""What ends a training in the middle of an epoch: a signal, or the machine's fault."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import logging
import multiprocessing
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from espnet2.iterators.abs_iter_factory import AbsIterFactory

from espnet_softpl.core.errors import status_of

logger = logging.getLogger(__name__)

# Longer than an update or a whole validation, after which the training itself ends its
# loaders; those of a training that was killed end within seconds by torch's watchdog.
LOADER_SECONDS = 3600
SIGNALS = (signal.SIGTERM, signal.SIGINT)
EXIT_STATUS = 128 + signal.SIGTERM  # What a shell reports of a process so ended.
GO_ON = (
    "What was saved before is complete. When that is fixed, continue with --resume "
    "true and otherwise the same options."
)


class Interrupted(SystemExit):
    """A signal stopped the training, which has saved: status 143, or 130 of SIGINT."""


@contextlib.contextmanager
def _handling(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Have the signals handled, and give them back afterwards."""
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def end_by(number: int) -> None:
    """End the process by a signal, as if nobody had listened to it."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


class StopRequest:
    """Set when the process has got SIGTERM or SIGINT; a second SIGINT ends it.

    A scheduler that takes the machine back sends the first, a user's Ctrl-C the second.
    """

    def __init__(self) -> None:
        self.is_set = False
        self.status = EXIT_STATUS

    def _set(self, number: int, frame: Any) -> None:
        if self.is_set and number == signal.SIGINT:
            end_by(number)
        if not self.is_set:
            self.is_set, self.status = True, 128 + number
            logger.warning(
                "%s: the training stops and saves at the next mini-batch%s",
                signal.Signals(number).name,
                "; Ctrl-C again ends it at once" if number == signal.SIGINT else "",
            )

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[StopRequest]:
        """Take the signals as the request, and give them back afterwards."""
        self.is_set, self.status = False, EXIT_STATUS
        with _handling(self._set):
            yield self


@contextlib.contextmanager
def terminating_children() -> Iterator[None]:
    """Hand signals on to the processes that this one has started and waits for.

    ESPnet starts one process per GPU, and the one that a user knows the number of only
    waits for them. It ends with their status.
    """
    seen: set[int] = set()

    def hand_on(number: int, frame: Any) -> None:
        # Not loaders, which are daemons: they end with the process that they serve.
        children = [c for c in multiprocessing.active_children() if not c.daemon]
        for child in children:
            child.terminate()
        # Nothing has begun, or it is Ctrl-C again.
        if not children or number in seen and number == signal.SIGINT:
            end_by(number)
        seen.add(number)

    try:
        with _handling(hand_on):
            yield
    except torch.multiprocessing.ProcessExitedException as error:
        logger.error("%s", error)
        # A process that a signal ended has a negative status.
        status = error.exit_code
        raise SystemExit(status if status >= 0 else 128 - status) from error


def _outlive_sigterm(init: Callable[[int], None] | None, worker: int) -> None:
    """Let a loader's process outlive SIGTERM for a while, for the training needs it.

    Schedulers send the signal to every process of a job, and may do so twice. The
    training stops a mini-batch later and ends its loaders itself; what is left then
    ends by itself.
    """

    def on_first_signal(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.alarm(LOADER_SECONDS)

    signal.signal(signal.SIGTERM, on_first_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # A terminal sends it to all.
    if init is not None:
        init(worker)


class SigtermTolerantFactory(AbsIterFactory):
    """Another factory's mini-batches, from loaders that outlive SIGTERM for a while."""

    def __init__(self, factory: AbsIterFactory) -> None:
        self.factory = factory

    def build_iter(self, epoch: int, shuffle: bool | None = None) -> Any:
        """Build the iterator of one epoch; see the factory."""
        batches = self.factory.build_iter(epoch, shuffle)
        for loader in getattr(batches, "loaders", [batches]):
            init = functools.partial(_outlive_sigterm, loader.worker_init_fn)
            loader.worker_init_fn = init
        return batches


@dataclasses.dataclass
class StoppableIterator:
    """Mini-batches of an epoch that end early when a stop is requested."""

    batches: Any
    stop: StopRequest
    accum_grad: int = 1  # Mini-batches of an optimizer step; it stops between two.
    # Trained on before. They are read but not handed out, for whatever the loader draws
    # at random must be drawn.
    skip: int = 0
    begin: Callable[[], None] = lambda: None  # Before the first is handed out.
    # Of random generators. What is remembered is from before the next one was read, for
    # a loader may draw in this process.
    random_state: Callable[[], Any] = lambda: None
    random: Any = None
    # After the training step on each, which is when the next, or the end, is asked for.
    after_step: Callable[[], None] = lambda: None
    done: int = 0  # Mini-batches of the epoch that have been trained on.

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def complete(self) -> bool:
        """Whether every mini-batch has been trained on."""
        return self.done == len(self)

    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.batches)
        for _ in range(self.skip):
            next(batches)
        self.done = self.skip
        self.begin()
        self._remember()
        for batch in batches:
            if self.stop.is_set and self.done % self.accum_grad == 0:
                return
            yield batch
            self.done += 1
            self.after_step()
            self._remember()

    def _remember(self) -> None:
        if self.done % self.accum_grad == 0:
            self.random = self.random_state()


def explain_fault(error: BaseException, output_dir: Path) -> str | None:
    """Say what the machine did, a full disk or a killed loader; None if it did not."""
    text = str(error)
    # In a training, a right to write that was there at the start and is gone, too.
    denied = isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM)
    if denied or status_of(error) == 4:
        free = shutil.disk_usage(output_dir).free / 1e6
        reason = text.partition("\n")[0]
        return (
            f"{output_dir}: could not be written to ({reason}); {free:.1f} MB are "
            f"free. {GO_ON}"
        )
    # What a process has read may be lost with it, before torch notices its death.
    lost = isinstance(error, ConnectionError)
    if lost or isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        return (
            f"a data loading process has died ({text.partition('. ')[0]}). Often the "
            f"memory was used up: less num_workers or smaller batches need less. "
            f"{GO_ON}"
        )
    return None
