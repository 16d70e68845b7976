"""Kaldi's pipes: entries of wav.scp that end in `|`, whose output is the audio.

A command runs only with the user's consent (`--allow_pipes true`). Then bash runs it,
as Kaldi and kaldiio do.
"""

from __future__ import annotations

import re
import subprocess

_FILE = r"""([^\s"'\\$`*?~;&<>()|]+)"""  # Of characters that a shell takes as they are.
_COPY = re.compile(rf"(?:\S*/)?(?:wav-copy\s+{_FILE}\s+-|cat\s+{_FILE})\s*\|")
_SIGPIPE = 128 + 13  # bash's status of a program whose reader wanted no more.


def is_command(value: str) -> bool:
    """Tell whether an entry is a command whose output is meant."""
    return value.strip().endswith("|") or value.strip().startswith("|")


def copied_file(value: str) -> str | None:
    """Return what a command only copies: X of `wav-copy X - |` and `cat X |`; or None.

    Kaldi writes such entries (utils/data/extract_wav_segments_data_dir.sh), and they
    need neither Kaldi nor consent to run a program.
    """
    match = _COPY.fullmatch(value.strip())
    return match and (match[1] or match[2])


def run_pipe(value: str) -> bytes:
    """Run an entry of wav.scp that ends in `|`, and return what it writes.

    Raises:
        ValueError: The entry does not end in `|`, or is nothing else.
        RuntimeError: The command failed; with the end of its error output.
    """
    command = value.strip().removesuffix("|")
    if command == value.strip() or not command.strip():
        raise ValueError(f"{value!r} is no command that ends in '|'")
    # With `pipefail` the status tells of every program of a pipeline. No input: a
    # program that reads would wait for ever.
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if done.returncode not in (0, _SIGPIPE):
        said = " ".join(done.stderr[-300:].decode("utf-8", "replace").split())
        raise RuntimeError(f"{value!r} ended with status {done.returncode}: {said}")
    return done.stdout
