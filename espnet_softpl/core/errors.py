"""Errors that are the user's to mend, and how a command ends with one."""

from __future__ import annotations

import errno
import functools
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn


class UserError(ValueError):
    """Input that only its owner can mend; commands show it without a traceback."""


class CollapseError(RuntimeError):
    """A training ended that would learn no more: the guard's alarm; exit status 3."""


def ends_quietly(main: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command's `main`: Ctrl-C and SIGTERM raise, status 130 or 143."""

    def end(number: int, frame: Any) -> NoReturn:
        raise SystemExit(128 + number)

    @functools.wraps(main)
    def run(*args: Any, **kwargs: Any) -> Any:
        before = signal.signal(signal.SIGTERM, end)
        try:
            return main(*args, **kwargs)
        except KeyboardInterrupt:
            refuse("interrupted", status=128 + signal.SIGINT)
        finally:
            signal.signal(signal.SIGTERM, before)

    return run


# What a system says if a disk is full or broken: no mistake of the user's.
_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG}
# torch has words of its own for it.
_TORCH = ("PytorchStreamWriter", "iostream error", "unexpected pos")


def status_of(error: BaseException) -> int:
    """Return the exit status for an error: 4 if the machine is at fault, else 2."""
    full = isinstance(error, OSError) and error.errno in _MACHINE
    by_torch = isinstance(error, RuntimeError) and any(w in str(error) for w in _TORCH)
    return 4 if full or by_torch else 2


@contextmanager
def refusing(what: str, advice: str = "") -> Iterator[None]:
    """Make a UserError of whatever others' code raises, such as a model's parts."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what}: {type(error).__name__}: {error}{advice}") from error


def name_some(items: Iterable[str], most: int = 3) -> str:
    """Show a few of many, sorted, for a message."""
    listed = sorted(items)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


def no_file(path: str | Path) -> str:
    """Say of a path that is no file what it is."""
    fault = "is a directory, not a file" if Path(path).is_dir() else "does not exist"
    return f"{path} {fault}"


def release(error: BaseException | None) -> None:
    """Let go of what an error's frames hold: processes that load data end at once."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def refuse(error: Exception | str, status: int = 2) -> NoReturn:
    """End the process with a message, as argparse does, and its status 2 or another."""
    if isinstance(error, Exception):
        release(error)
    sys.stderr.write(f"{Path(sys.argv[0]).name}: error: {error}\n")
    sys.exit(status)
