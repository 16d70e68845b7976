"""`python -m espnet_softpl` in the place of python: one module is exchanged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from espnet_softpl.__main__ import MODULE, USAGE, command
from tests import python_path


def run(*words: str, stdin: str = "", **more: Any) -> subprocess.CompletedProcess[str]:
    """Run Python with some arguments."""
    return subprocess.run(
        [sys.executable, *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": python_path()},
        **more,
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("-m espnet2.bin.asr_train --ngpu 0", "-m espnet_softpl.bin.train --ngpu 0"),
        ("-mespnet2.bin.asr_train -m x", "-mespnet_softpl.bin.train -m x"),
        ("-um espnet2.bin.asr_train", None),
        ("-X dev -m espnet2.bin.asr_train", None),
        ("-W error -X dev -OO -m espnet2.bin.asr_train", None),
        ("-Werror -Xdev -m espnet2.bin.asr_train", None),
        ("--check-hash-based-pycs never -m espnet2.bin.asr_train", None),
        # Not the module to run: left alone.
        ("-m espnet2.bin.launch -- python -m espnet2.bin.asr_train", "="),
        ("-m espnet2.bin.asr_transducer_train", "="),
        ("-m espnet2.bin.asr_inference", "="),
        ("script.py -m espnet2.bin.asr_train", "="),
        ("- -m espnet2.bin.asr_train", "="),
        ("-c pass -m espnet2.bin.asr_train", "="),
        ("-uc pass -m espnet2.bin.asr_train", "="),
        ("-cpass -m espnet2.bin.asr_train", "="),
        ("-W -m espnet2.bin.asr_train", "="),
        ("-X", "="),
        ("-m", "="),
        ("-V", "="),
    ],
)
def test_one_module_is_exchanged(given: str, expected: str | None) -> None:
    other = given.replace("espnet2.bin.asr_train", "espnet_softpl.bin.train")
    words = command([], given.split())
    assert " ".join(words) == {None: other, "=": given}.get(expected, expected)


@pytest.mark.parametrize(
    ("own", "kept"),
    [
        ("-O -W error -m espnet_softpl", "-O -W error"),
        ("-OWerror -mespnet_softpl", "-OWerror"),
        ("-X dev -um espnet_softpl", "-X dev -u"),
        ("-umespnet_softpl", "-u"),
        ("-m espnet_softpl", ""),
    ],
)
def test_options_of_the_outer_python_are_kept(own: str, kept: str) -> None:
    given = ["-u", "x.py", "-m", "y"]
    assert command([*own.split(), *given], given) == [*kept.split(), *given]


@pytest.mark.parametrize(
    "words", ["-m a.b -x", "-X dev -ma.b", "-um a.b", "-uma.b", "-Wd -OOm a.b -m c"]
)
def test_the_module_is_found(words: str) -> None:
    assert MODULE.match(words.replace(" ", "\0"))["name"] == "a.b"


SHOW = """
import multiprocessing, os, sys

def child(queue):
    queue.put((__name__, sys.flags.optimize, sys.argv[1:]))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    print(queue.get(timeout=30), sys.argv, sys.path[0], sys.flags.optimize)
    process.join()
    sys.exit(7)
"""
PRINT = "import sys; print(sys.argv, sys.path[0], __name__); sys.exit('failed')"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "stdin"),
    [
        (["-O", "show.py", "a b", "-m", "espnet2.bin.asr_train"], ""),
        (["-m", "show", "--x", "*"], ""),
        (["-m", "package.inner"], ""),
        (["-c", PRINT, "-u", "a"], ""),
        (["-", "a"], PRINT),
        (["-I", "-c", PRINT], ""),
        (["-c", "import os; os.kill(os.getpid(), 15)"], ""),
        (["-c", "raise SystemExit(143)"], ""),
        (["-c", "print(input())"], "a line\n"),
        (["nothing.py"], ""),
        (["-m", "no_such_module"], ""),
        (["-m"], ""),
        (["--version"], ""),
    ],
)
def test_it_is_the_plain_interpreter(words, stdin: str, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "inner.py").write_text(PRINT)
    (tmp_path / "show.py").write_text(SHOW)
    plain = run(*words, stdin=stdin, cwd=tmp_path)
    ours = run("-m", "espnet_softpl", *words, stdin=stdin, cwd=tmp_path)
    assert (ours.returncode, ours.stdout) == (plain.returncode, plain.stdout)
    assert ours.stderr == plain.stderr
    assert plain.stdout or plain.returncode


def test_lightning_is_refused() -> None:
    words = ["-u", "-m", "espnet2.bin.lightning_train", "--task", "asr"]
    done = run("-m", "espnet_softpl", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "(asr.sh --use_lightning true) cannot learn" in done.stderr


def test_usage_is_shown() -> None:
    nothing, helped = (run("-m", "espnet_softpl", *w) for w in ([], ["--help"]))
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert helped.returncode == 0
    assert nothing.stderr == helped.stdout == USAGE
    assert "softpl --help" in USAGE
