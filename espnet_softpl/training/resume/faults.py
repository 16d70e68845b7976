"""What the machine did to a training, in words: a full disk, a killed loader."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

GO_ON = (
    "What was saved before is whole: when that is mended, go on with --resume true and "
    "otherwise the same options."
)

WRITING = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO),
    *(errno.EFBIG, errno.EACCES, errno.EPERM),
}


def explain(error: BaseException, output_dir: Path) -> str | None:
    """Say what happened and what to do; None if it is no fault of the machine."""
    text = str(error)
    # torch has words of its own for what the system says about writing.
    words = ("PytorchStreamWriter", "iostream error", "unexpected pos")
    by_torch = isinstance(error, RuntimeError) and any(w in text for w in words)
    if by_torch or (isinstance(error, OSError) and error.errno in WRITING):
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
