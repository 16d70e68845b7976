#!/usr/bin/env python3
"""Show on a terminal how far trainings or decodings are; runs until it is stopped.

It only reads logs, so it shows jobs of this machine and of a queue alike.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

_EPOCH = re.compile(r"(\d+)/(\d+)epoch started")
_TAIL_BYTES = 65536


def count_epochs(log: Path) -> tuple[int, int]:
    """Return the epochs that a training has done, and how many there are to be.

    Args:
        log: Its log file; before the first epoch both are 0.
    """
    if not log.exists():
        return 0, 0
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = stream.read().decode("utf-8", errors="replace")
    begun = _EPOCH.findall(text)
    if not begun:
        return 0, 0
    epoch, last = map(int, begun[-1])
    return (last if "\n# Ended (code 0)" in text else epoch - 1), last


def count_decoded(logs: Sequence[Path]) -> int:
    """Return how many utterances the decoding logs mention."""
    texts = [log.read_text(errors="replace") for log in logs if log.exists()]
    return sum(text.count("INFO: speech length:") for text in texts)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("train", "decode"))
    parser.add_argument("--exp", type=Path, required=True)
    parser.add_argument("--seeds", nargs="+", required=True)
    parser.add_argument("--systems", nargs="+", required=True)
    parser.add_argument("--scp", type=Path)
    args = parser.parse_args()
    runs = [f"seed{seed}/{name}" for seed in args.seeds for name in args.systems]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # Closes the bars.
    bars: dict[str, tqdm] = {}
    started = time.time()
    while True:
        time.sleep(2)
        states = {}
        if args.kind == "train":
            for run in runs:
                log = args.exp / run / "train.log"
                if log.exists() and log.stat().st_mtime >= started:
                    states[run] = count_epochs(log)
        else:
            logs = [
                log for run in runs for log in (args.exp / run).glob("decode/log/*")
            ]
            total = len(args.scp.read_text().splitlines()) * len(runs)
            states["utterances decoded"] = count_decoded(logs), total
        for name, (done, total) in states.items():
            if total and name not in bars:
                bars[name] = tqdm(desc=name, total=total, initial=done, leave=False)
            if total:
                bars[name].n = done
                bars[name].refresh()


if __name__ == "__main__":
    main()
