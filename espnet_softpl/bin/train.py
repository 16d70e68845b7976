"""Train with pseudo-labels: `espnet2.bin.asr_train` with the `pl_*` options."""

from __future__ import annotations

from collections.abc import Sequence

from espnet_softpl.core.quick_imports import quick_imports


def main(cmd: Sequence[str] | None = None) -> None:
    """Run the training with command-line arguments, those of the process if None."""
    with quick_imports():
        from espnet_softpl.training.task import SoftPLTask

    SoftPLTask.main(cmd=cmd)


if __name__ == "__main__":
    main()
