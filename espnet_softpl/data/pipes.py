"""Kaldi's pipes, entries of wav.scp that end in `|`: run without a shell.

The words of a command are split as a shell would split them, and programs are joined
by pipes. Nothing else of a shell is there: no variables, redirections, wildcards or
several commands.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile

_PUNCTUATION = set("();<>&|")


_COPY = re.compile(r"(?:\S*/)?(?:wav-copy\s+(?P<wav>\S+)\s+-|cat\s+(?P<cat>\S+))\s*\|")


_SPECIAL = re.compile(r"""["'\\$`*?~;&<>()|]""")


def copied_file(value: str) -> str | None:
    """Return what a command only copies: `wav-copy X - |` and `cat X |` are X.

    Kaldi writes such entries (utils/data/extract_wav_segments_data_dir.sh), and they
    need neither Kaldi nor permission to run a program.

    Args:
        value: An entry of wav.scp.

    Returns:
        The file, with its offset where it is in an archive; None for other commands.
    """
    match = _COPY.fullmatch(value.strip())
    inner = match and (match["wav"] or match["cat"])
    return inner if inner and not _SPECIAL.search(inner) else None


def split_pipeline(value: str) -> list[list[str]]:
    """Split a pipe into its programs.

    Args:
        value: An entry of wav.scp that ends in `|`.

    Returns:
        The words of each program, in the order of the data.

    Raises:
        ValueError: It needs a shell, has no program, or its quotes do not match.
    """
    command = value.strip()
    if not command.endswith("|"):
        raise ValueError(f"{value!r} does not end in '|'")
    command = command[:-1]
    for sign in ("$", "`"):
        if sign in command:
            raise ValueError(
                f"{value!r}: {sign!r} needs a shell, and none is used; write the "
                f"words that it stands for"
            )
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    programs: list[list[str]] = [[]]
    try:
        words = list(lexer)
    except ValueError as error:
        raise ValueError(f"{value!r}: {error}") from error
    for word in words:
        if word == "|":
            programs.append([])
        elif word and set(word) <= _PUNCTUATION:
            raise ValueError(
                f"{value!r}: {word!r} needs a shell, and none is used; only programs "
                f"joined by '|' are run"
            )
        else:
            programs[-1].append(word)
    if not all(programs):
        raise ValueError(f"{value!r}: there is no program before a '|'")
    return programs


def run_pipe(value: str) -> bytes:
    """Run a pipe and return what its last program writes.

    Args:
        value: An entry of wav.scp that ends in `|`.

    Returns:
        The standard output.

    Raises:
        ValueError: See `split_pipeline`.
        OSError: A program cannot be started.
        RuntimeError: A program failed; with the end of the error output.
    """
    programs = split_pipeline(value)
    running: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryFile() as errors:
        try:
            for words in programs:
                source = running[-1].stdout if running else subprocess.DEVNULL
                process = subprocess.Popen(
                    words, stdin=source, stdout=subprocess.PIPE, stderr=errors
                )
                if running:
                    # The reader alone holds the pipe, so that its end reaches the
                    # writer.
                    running[-1].stdout.close()
                running.append(process)
            output = running[-1].stdout.read()
            statuses = [process.wait() for process in running]
        finally:
            for process in running:
                process.stdout.close()
                if process.poll() is None:
                    process.kill()
                    process.wait()
        # 13 is SIGPIPE: a later program did not want more.
        if statuses[-1] or any(status not in (0, -13) for status in statuses):
            errors.seek(0)
            said = " ".join(errors.read()[-300:].decode("utf-8", "replace").split())
            raise RuntimeError(f"{value!r} ended with status {statuses}: {said}")
        return output
