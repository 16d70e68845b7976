#!/usr/bin/env python3
"""Run a command of `espnet2.bin`, imported in half the time.

    local/espnet_command.py asr_inference --config conf/decode.yaml ...

is `python -m espnet2.bin.asr_inference --config conf/decode.yaml ...`.
"""

from __future__ import annotations

import importlib
import sys

from espnet_softpl.core.quick_imports import quick_imports


def main() -> None:
    """Run the command that the first argument names with the other arguments."""
    name, *arguments = sys.argv[1:]
    with quick_imports():
        module = importlib.import_module(f"espnet2.bin.{name}")
    sys.argv = [str(module.__file__), *arguments]  # ESPnet logs its command line.
    module.main()


if __name__ == "__main__":
    main()
