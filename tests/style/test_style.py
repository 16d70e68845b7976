"""Gates over the sources: docstrings, types, lengths, imports, shell syntax."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT

PACKAGE = ROOT / "espnet_softpl"
MAX_COLUMNS = 88
MAX_FUNCTION_LINES = 90
# The rooms that may import ESPnet.
ESPNET_ROOMS = {"training", "commands", "bin"}
GENERATED = {".git", ".venv", "build", "dist", "data", "downloads", "dump", "exp"}

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def list_files() -> list[Path]:
    """Return the project's own files: what git tracks or would track."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        command = ["git", "ls-files", "-z", "-co", "--exclude-standard"]
        output = subprocess.run(
            command, cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout
        files = [ROOT / name for name in output.split("\0") if name]
        return [file for file in files if file.is_file()]
    return [
        file
        for file in ROOT.rglob("*")
        if file.is_file() and not GENERATED & set(file.relative_to(ROOT).parts)
    ]


FILES = list_files()
MODULES = sorted(PACKAGE.rglob("*.py"))
PYTHON_FILES = sorted(file for file in FILES if file.suffix == ".py")


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def over(files: list[Path]) -> pytest.MarkDecorator:
    """Run a test once for each file, named after it."""
    return pytest.mark.parametrize("file", files, ids=name_of)


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, FUNCTIONS))


def public_definitions(
    body: list[ast.stmt],
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Yield functions, classes and their methods whose names have no underscore."""
    for node in body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            if not node.name.startswith("_"):
                yield node
                if isinstance(node, ast.ClassDef):
                    yield from public_definitions(node.body)


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Return the top-level names that import statements among ``nodes`` load."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def at_import_time(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes that run when the module is imported: none inside functions."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, (*FUNCTIONS, ast.Lambda)):
            todo.extend(ast.iter_child_nodes(node))


def may_import_espnet(file: Path) -> bool:
    return file.relative_to(PACKAGE).parts[0] in ESPNET_ROOMS


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@over(MODULES)
def test_module_imports(file: Path) -> None:
    if file.name == "__main__.py":
        compile(file.read_text(encoding="utf-8"), str(file), "exec")
    else:
        importlib.import_module(module_name(file))


@over(MODULES)
def test_everything_public_has_a_docstring(file: Path) -> None:
    tree = parse(file)
    assert ast.get_docstring(tree), "the module has no docstring"
    bare = [
        f"{node.name}, line {node.lineno}"
        for node in public_definitions(tree.body)
        if not ast.get_docstring(node)
    ]
    assert not bare


@over(MODULES)
def test_everything_is_annotated(file: Path) -> None:
    bare = []
    for node in functions(parse(file)):
        args = node.args
        given = [*args.posonlyargs, *args.args, *args.kwonlyargs]
        given += [arg for arg in (args.vararg, args.kwarg) if arg]
        bare += [
            f"{node.name}({arg.arg}), line {node.lineno}"
            for arg in given
            if arg.annotation is None and arg.arg not in ("self", "cls")
        ]
        if node.returns is None:
            bare.append(f"{node.name}() -> ?, line {node.lineno}")
    assert not bare


@over(PYTHON_FILES)
def test_functions_are_short(file: Path) -> None:
    lengths = {f.name: f.end_lineno - f.lineno + 1 for f in functions(parse(file))}
    assert not {n: size for n, size in lengths.items() if size > MAX_FUNCTION_LINES}


@over(PYTHON_FILES)
def test_lines_are_short(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    long = [number for number, line in enumerate(lines, 1) if len(line) > MAX_COLUMNS]
    assert not long, f"longer than {MAX_COLUMNS} columns"


@over([file for file in MODULES if file.parent.name != "bin"])
def test_the_library_does_not_print(file: Path) -> None:
    calls = [node for node in ast.walk(parse(file)) if isinstance(node, ast.Call)]
    names = [node.func.id for node in calls if isinstance(node.func, ast.Name)]
    assert "print" not in names


@over(MODULES)
def test_imports_of_torchaudio_and_espnet(file: Path) -> None:
    tree = parse(file)
    assert "torchaudio" not in imported(at_import_time(tree))
    if not may_import_espnet(file):
        assert not {"espnet", "espnet2"} & imported(ast.walk(tree))


def test_all_but_the_espnet_files_need_no_espnet() -> None:
    """Import them where ESPnet cannot be: blocked names raise, as if missing."""
    light = [
        module_name(file)
        for file in MODULES
        if not may_import_espnet(file) and file.name != "__main__.py"
    ]
    for needed in (
        "ctc",
        "monitors.guard",
        "teacher.generator",
        "data.scan",
        "cache",
        "criteria",
    ):
        assert f"espnet_softpl.{needed}" in light
    script = """
import importlib, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("espnet", "espnet2", "librosa", "torchaudio"):
            raise ModuleNotFoundError(f"blocked: {name}")

sys.meta_path.insert(0, Blocker())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""
    result = subprocess.run(
        [sys.executable, "-c", script, *light],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr


@over([file for file in FILES if file.name != "LICENSE"])
def test_text_names_no_machine_and_no_open_ends(file: Path) -> None:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:  # A picture or a recording.
        return
    forbidden = {
        "a path of one machine": r"(?<![\w.}$~/-])/(work|root|tmp|home|opt|Users)/\w",
        "a package index": r"pypi\.org|pythonhosted\.org|download\.pytorch\.org",
        "an open end": r"\b(TO[D]O|FIX[M]E)\b",
    }
    for what, pattern in forbidden.items():
        match = re.search(pattern, text)
        assert match is None, f"{what}: {match}"


def first_line(file: Path) -> bytes:
    with open(file, "rb") as stream:
        return stream.readline(100)


SHELL_FILES = [
    file
    for file in FILES
    if file.suffix == ".sh" or re.match(rb"#!.*\b(ba)?sh\b", first_line(file))
]


@over(SHELL_FILES)
def test_shell_scripts_parse(file: Path) -> None:
    result = subprocess.run(["bash", "-n", file], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def shellcheck(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run ShellCheck, which the extra `test` installs; .shellcheckrc sets it up."""
    beside = Path(sys.executable).parent / "shellcheck"
    program = str(beside) if beside.exists() else shutil.which("shellcheck")
    assert program, "ShellCheck is missing: pip install 'espnet_softpl[test]'"
    return subprocess.run([program, *words], capture_output=True, text=True)


@over(SHELL_FILES)
def test_shell_scripts_are_clean(file: Path) -> None:
    result = shellcheck(file)
    assert result.returncode == 0, result.stdout + result.stderr


def test_shellcheck_sees_what_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "bad.sh").write_text("#!/bin/bash\nfor file in $(ls $1); do :; done\n")
    result = shellcheck(tmp_path / "bad.sh")
    assert result.returncode == 1 and "SC2045" in result.stdout


def test_gates_see_the_sources() -> None:
    """An empty list would let every test above pass."""
    names = {name_of(file) for file in FILES}
    assert {"setup.py", "tests/run.sh", ".ci/run", "LICENSE"} <= names
    assert PACKAGE / "ctc" / "ops.py" in MODULES
    assert {".ci/run", "tests/run.sh"} <= {name_of(file) for file in SHELL_FILES}


PROGRAMS = [
    file
    for part in ("espnet_softpl", "egs2", "benchmarks", "tools")
    for file in sorted((ROOT / part).rglob("*.py"))
]


@over(PROGRAMS)
def test_no_file_can_run_code_or_leave_its_directory(file: Path) -> None:
    """No pickles, no unpacking outside of the target, no shell, no eval."""
    for node in ast.walk(parse(file)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if called == "torch.load":
            assert given.get("weights_only") == "True", ast.unparse(node)
        if called.rpartition(".")[2] == "extractall":
            assert given.get("filter") == "'data'", ast.unparse(node)
        assert "shell" not in given, ast.unparse(node)
        assert called not in ("eval", "exec", "os.system", "os.popen", "pickle.load")
        assert called not in ("yaml.load", "pickle.loads", "yaml.unsafe_load")
