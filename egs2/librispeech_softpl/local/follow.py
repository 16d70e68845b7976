#!/usr/bin/env python3
"""Show on a terminal how far trainings or decodings are; runs until it is stopped.

It only reads logs, so it shows jobs of this machine and of a queue alike.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import time
from pathlib import Path

from progress import progress_text

_EPOCH = re.compile(r"(\d+)/(\d+)epoch started(?:\. Estimated time to finish: (.*))?")
_TAIL_BYTES = 65536


def training_text(label: str, log: Path) -> str:
    """Return the state of one training as text, or an empty string before it starts.

    Args:
        label: Name of the run.
        log: Its log file, which may not exist yet.
    """
    try:
        with log.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - _TAIL_BYTES))
            text = stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    ended = re.search(r"^# Ended \(code (\d+)\)", text, re.MULTILINE)
    if ended:
        return f"{label}: {'done' if ended[1] == '0' else 'failed'}"
    epochs = _EPOCH.findall(text)
    if not epochs:
        return f"{label}: starting"
    epoch, last, left = epochs[-1]
    text = f"{label}: epoch {epoch}/{last}"
    return f"{text}, time to finish {left}" if left else text


def count_decoded(logs: list[Path]) -> int:
    """Return how many utterances the decoding logs mention.

    Args:
        logs: Log files; those that do not exist count as empty.
    """
    total = 0
    for log in logs:
        if log.exists():
            total += log.read_text(errors="replace").count("INFO: speech length:")
    return total


def show(lines: list[str], shown: int) -> int:
    """Write the lines over the ones that were shown before.

    Args:
        lines: What to show.
        shown: Number of lines shown before.

    Returns:
        The number of lines shown now.
    """
    width = shutil.get_terminal_size().columns - 1
    if shown:
        sys.stderr.write(f"\x1b[{shown}A")
    for line in lines:
        sys.stderr.write(f"\x1b[2K{line[:width]}\n")
    sys.stderr.flush()
    return max(shown, len(lines))


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
    start, shown = time.monotonic(), 0
    started = time.time()
    while True:
        time.sleep(2)
        if args.kind == "train":
            logs = [(run, args.exp / run / "train.log") for run in runs]
            recent = [
                (run, log)
                for run, log in logs
                if log.exists() and log.stat().st_mtime >= started
            ]
            lines = [training_text(run, log) for run, log in recent]
        else:
            total = sum(1 for _ in args.scp.open()) * len(runs)
            found = [
                log
                for run in runs
                for log in (args.exp / run / "decode" / "log").glob("*.log")
            ]
            done = count_decoded(found)
            seconds = time.monotonic() - start
            lines = [progress_text("utterances decoded", done, total, seconds)]
        shown = show([line for line in lines if line], shown)


if __name__ == "__main__":
    main()
