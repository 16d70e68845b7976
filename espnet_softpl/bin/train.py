"""Train with pseudo-labels: `espnet2.bin.asr_train` with the `pl_*` options.

ESPnet's task does the work; every option of the stock command is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

from espnet_softpl.training.task import SoftPLTask


def main(cmd: Sequence[str] | None = None) -> None:
    """Run the training.

    Args:
        cmd: Command-line arguments; None for those of the process.
    """
    SoftPLTask.main(cmd=cmd)


if __name__ == "__main__":
    main()
