"""Train with pseudo-labels: `espnet2.bin.asr_train` with the `pl_*` options."""

from __future__ import annotations

from collections.abc import Sequence

from espnet_softpl.training.task import SoftPLTask


def main(cmd: Sequence[str] | None = None) -> None:
    """Run the training with command-line arguments, those of the process if None."""
    SoftPLTask.main(cmd=cmd)


if __name__ == "__main__":
    main()
