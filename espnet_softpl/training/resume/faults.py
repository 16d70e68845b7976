"""What the machine did to a training, in words: a full disk, a killed loader."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from espnet_softpl.core.errors import status_of

GO_ON = (
    "What was saved before is whole: when that is mended, go on with --resume true and "
    "otherwise the same options."
)

# In a training, a right to write that was there at the start and is gone, too.
DENIED = {errno.EACCES, errno.EPERM}


def explain(error: BaseException, output_dir: Path) -> str | None:
    """Say what happened and what to do; None if it is no fault of the machine."""
    text = str(error)
    denied = isinstance(error, OSError) and error.errno in DENIED
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
