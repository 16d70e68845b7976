"""Every block in the documentation is run by a test, or says what it needs.

The line before a block may be a mark:

* `<!-- needs a corpus -->`, `<!-- needs: corpus, gpu -->`: what keeps tests from
  running it, out of `NEEDS`.
* `<!-- test: tests/test_x.py::test_y -->`: the test that runs it.
* `<!-- tests: tests/test_x.py -->`, once on a page: the file that runs all of its
  blocks without a mark of their own.

Without a mark: YAML is built by tests/docs/test_claims.py; Python is run here, all
blocks of a page in order; of commands those of the recipe are run with `--dry_run`, and
those of Python programs given to their parsers.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest

from espnet_softpl.cli.__main__ import names
from tests import python_path
from tests.support import warm_python
from tests.support.doc_pages import ALL, PAGES, ROOT, Block, blocks, name_of, read

NEEDS = {"corpus", "gpu", "network", "cluster", "time"}
OUTPUT = {"", "text", "diff", "bibtex"}
SHELL = {"sh", "bash"}
PROGRAM = re.compile(
    r"python3? (?:-m ((?:espnet_softpl|espnet2)[.\w]*)|(benchmarks/.*))|softpl ([\w-]+)"
)
OURS = ("tests/run.sh", "tests/newcomer.sh", "tools/setup_venv.sh")
EXAMPLES = ROOT / "docs" / "examples"
DIRECTORIES = {"--librispeech", "--digits", "--labeled_dir", "--unlabeled_dir"}
DIRECTORIES |= {"--dev_dir", "--test_dirs", "--words"}


def commands(block: Block) -> list[str]:
    """Split a block of shell into its commands, one a line, without comments."""
    text = block.text.replace("\\\n", " ")
    lines = re.split(r"\n|&&", re.sub(r"(^|\s)#.*$", "", text, flags=re.M))
    return [line.strip() for line in lines if line.strip()]


def kind_of(command: str) -> str | None:
    """Say how a command can be checked by itself; None where it cannot."""
    if re.fullmatch(r"(cd|\.) [\w./-]+", command):
        return "place"  # Where one is, and the environment there.
    if command.startswith("./run.sh"):
        return "recipe"
    if PROGRAM.match(command):
        return "program"
    if re.match(r"pip (install|wheel|download) ", command):
        return "network"
    if command.split()[0] in OURS:
        return "script"
    return None


def unmarked(kind: str) -> list:
    """List the commands of one kind in blocks without a mark, each once."""
    found = {}
    for block in ALL:
        if block.language in SHELL and not block.mark:
            for command in commands(block):
                if kind_of(command) == kind:
                    found.setdefault(command, block.name)
    return [pytest.param(command, id=name) for command, name in found.items()]


def fault_of(block: Block) -> str | None:
    """Say what is wrong with a block that no test runs and that does not say why."""
    if block.language in OUTPUT:
        return None
    wanted = re.fullmatch(r"needs(?::| an?| the) (.*)", block.mark)
    if wanted:
        words = set(re.split(r", *", wanted[1]))
        return None if words <= NEEDS else f"needs: allowed are {sorted(NEEDS)}"
    what, _, value = block.mark.partition(": ")
    if what in ("test", "tests"):
        file, _, test = value.partition("::")
        if not (ROOT / file).is_file():
            return f"there is no {file}"
        text = read(ROOT / file)
        if what == "tests":
            named = block.page.name in text or block.page.stem in text
            return None if named else f"{file} does not read {block.page.name}"
        there = re.search(rf"^def {re.escape(test.partition('[')[0])}\(", text, re.M)
        return None if there else f"there is no {value}"
    if block.mark:
        return f"unknown mark: {block.mark}"
    if block.language in ("yaml", "python"):
        return None
    if block.language not in SHELL:
        return f"unknown language {block.language!r}"
    bare = [command for command in commands(block) if kind_of(command) is None]
    return f"nothing runs {bare[0]!r}" if bare else None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    faults = {block.name: fault_of(block) for block in blocks(page)}
    assert not {name: fault for name, fault in faults.items() if fault}


@pytest.mark.parametrize(
    ("language", "text", "mark", "fault"),
    [
        ("sh", "mkdir x\n", "", "nothing runs 'mkdir x'"),
        ("sh", "./run.sh --stage 1 \\\n    --seed 2 && rm -r x\n", "", "nothing runs"),
        ("sh", "# a comment\n. ./path.sh && ./run.sh  # another\n", "", None),
        ("sh", "mkdir x\n", "needs: corpus, gpu", None),
        ("sh", "mkdir x\n", "needs a network", None),
        ("sh", "mkdir x\n", "needs: patience", "needs: allowed are"),
        ("sh", "mkdir x\n", "test: tests/docs/test_blocks.py::test_nothing", "is no"),
        ("sh", "mkdir x\n", "test: tests/test_nothing.py::test_x", "is no tests/"),
        ("sh", "mkdir x\n", "tests: tests/ctc/test_ops.py", "does not read README.md"),
        ("sh", "mkdir x\n", "a remark", "unknown mark"),
        ("rust", "fn main() {}\n", "", "unknown language"),
        ("", "anything\n", "", None),
    ],
)
def test_the_gate_sees_what_is_not_run(language, text, mark, fault) -> None:
    found = fault_of(Block(PAGES[0], 1, language, text, mark))
    assert found is None if fault is None else fault in found


def test_blocks_and_marks_are_read() -> None:
    by_name = {name_of(page): blocks(page) for page in PAGES}
    assert "python" in {block.language for block in by_name["README.md"]}
    assert {block.mark for block in by_name["docs/distributed.md"]} == {
        "tests: tests/end_to_end/test_launch.py"
    }
    assert unmarked("recipe") and unmarked("program")


class Parsed(Exception):
    """A program has taken its arguments, and is to do no more."""


def stop_after_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_only(parser, args=None, namespace=None) -> NoReturn:
        parse(parser, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    # The reader has the paths, and may write to them.
    monkeypatch.setattr(Path, "exists", lambda self: True)
    monkeypatch.setattr(
        Path, "is_dir", lambda self: not self.suffix and self.name != "text"
    )
    monkeypatch.setattr(os, "access", lambda place, mode: True)


def program(command: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import what a command runs."""
    module, file, name = PROGRAM.match(command).groups()
    if name:
        module = f"espnet_softpl.bin.{names()[name]}"
    elif module is None:
        monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
        module = Path(file.split()[0]).stem
    return importlib.import_module(module)


@pytest.mark.parametrize("command", unmarked("program"))
def test_programs_take_their_arguments(command: str, monkeypatch) -> None:
    module = program(command, monkeypatch)
    words = shlex.split(command)
    arguments = words[words.index("-m") + 2 :] if "-m" in words else words[2:]
    # What stands for more, and a file that the reader has.
    arguments = [word for word in arguments if word != "..."]
    if "--config" in arguments:
        where = arguments.index("--config")
        del arguments[where : where + 2]
    stop_after_parsing(monkeypatch)
    with pytest.raises(Parsed):
        module.main(arguments)


def test_a_wrong_argument_is_found(monkeypatch, capsys) -> None:
    stop_after_parsing(monkeypatch)
    module = program("python -m espnet_softpl.bin.check_env --fast", monkeypatch)
    with pytest.raises(SystemExit):
        module.main(["--fast"])
    assert "--fast" in capsys.readouterr().err


@pytest.mark.parametrize("command", unmarked("script"))
def test_scripts_have_their_options(command: str) -> None:
    script, *words = command.split()
    shown = subprocess.run(
        [ROOT / script, "--help"], capture_output=True, text=True, timeout=60
    )
    assert shown.returncode == 0
    assert all(word in shown.stdout for word in words if word.startswith("--"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the recipe, with nothing of what its runs leave."""
    root = tmp_path_factory.mktemp("docs")
    target = root / "egs2" / "librispeech_softpl"
    generated = shutil.ignore_patterns("data", "downloads", "dump", "exp")
    shutil.copytree(ROOT / "egs2/librispeech_softpl", target, ignore=generated)
    shutil.copytree(ROOT / "tools", root / "tools")
    return target


@pytest.mark.slow
@pytest.mark.parametrize("command", unmarked("recipe"))
def test_the_recipe_takes_its_options(command: str, recipe: Path) -> None:
    words = shlex.split(command)
    for option, value in zip(words, words[1:]):
        if option in DIRECTORIES:
            for name in value.split():
                (recipe / name).mkdir(parents=True, exist_ok=True)
        if option == "--base_init":
            model = recipe / value.partition(":")[0]
            model.parent.mkdir(parents=True, exist_ok=True)
            model.touch()
    result = subprocess.run(
        [*words, "--dry_run", "true"],
        cwd=recipe,
        env={
            **os.environ,
            "PYTHON": warm_python.executable(),
            "PYTHONPATH": python_path(),
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]


def python_pages() -> list:
    """List the Python blocks of each page that has some."""
    pages = {}
    for block in ALL:
        if block.language == "python" and not block.mark:
            pages.setdefault(name_of(block.page), []).append(block)
    return [pytest.param(found, id=page) for page, found in pages.items()]


@pytest.mark.parametrize("found", python_pages())
def test_python_blocks_run(found: list[Block], tmp_path: Path, monkeypatch) -> None:
    """A block that begins with a file's name goes there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for number, block in enumerate(found):
        named = re.match(r'"""(\w+\.py): ', block.text)
        file = tmp_path / (named[1] if named else f"block{number}.py")
        with open(file, "a", encoding="utf-8") as stream:
            stream.write(block.text)
        monkeypatch.delitem(sys.modules, file.stem, raising=False)
        runpy.run_path(str(file), run_name="__main__")


def test_the_page_shows_the_example() -> None:
    (block,) = blocks(EXAMPLES.parent / "write_a_criterion.md")[:1]
    shown = block.text[block.text.index("class ") :]
    assert shown in read(EXAMPLES / "my_criteria.py")


@pytest.mark.slow
def test_the_tests_of_the_example_pass(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True)
    result = subprocess.run(
        [warm_python.executable(), "-m", "pytest", "-q", "test_my_criteria.py"],
        env={**os.environ, "PYTHONPATH": python_path()},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "12 passed" in result.stdout
