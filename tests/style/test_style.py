"""What ruff cannot say of the sources: rooms, imports, sizes, shapes, paths, shell."""

import ast
import importlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import ROOT

PACKAGE = ROOT / "espnet_softpl"
MAX_ROOMS = 15
MAX_MODULE_LINES = 400
GENERATED = {".git", ".venv", "build", "dist", "data", "downloads", "dump", "exp"}

# Which rooms a room may import, beside itself.
LABELS = {"core", "ctc", "labels"}
PARTS = {"criteria", "regularizers", "shaping", "filters", "teacher", "cache"}
BELOW_TRAINING = LABELS | PARTS | {"monitors", "data"}
MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "ctc": {"core"},
    "labels": {"core", "ctc"},
    "criteria": LABELS,
    "regularizers": LABELS | {"criteria"},
    "shaping": LABELS,
    "filters": LABELS,
    "teacher": LABELS,
    "cache": LABELS,
    "monitors": LABELS,
    "data": {"core"},
    "training": BELOW_TRAINING,
    "commands": BELOW_TRAINING | {"training"},
    "bin": BELOW_TRAINING | {"training", "commands"},
    "cli": {"bin", "commands"},
    "": set(),  # The package itself: `python -m espnet_softpl`.
}
# The rooms that may import ESPnet.
ESPNET_ROOMS = {"training", "commands"}


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


def name_of(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def over(files: list[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Make one test of a check of each file; those that fail are named."""

    def of_all(check: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            faults = {}
            for file in files:
                try:
                    check(file)
                except AssertionError as error:
                    faults[name_of(file)] = str(error)
            assert not faults

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return of_all


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def room_of(file: Path) -> str:
    """Return the room of a module, "" at the top of the package."""
    parts = file.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(file) for file in MODULES}


def run_python(script: str, *words: str) -> None:
    """Run a script in a fresh process; fail with what it wrote."""
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# Ruff says the rest: pyproject.toml.


@pytest.mark.parametrize("words", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff_is_content(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "ruff", *words, "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@over(MODULES)
def test_torch_loads_no_code(file: Path) -> None:
    for node in ast.walk(parse(file)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            assert given.get("weights_only") == "True", ast.unparse(node)


# Rooms and imports.


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Return the dotted names that import statements among `nodes` load.

    `from espnet_softpl.ctc import loss` loads the module `espnet_softpl.ctc.loss`;
    `from espnet_softpl.ctc import BLANK` loads the package `espnet_softpl.ctc`.
    """
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                names.add(inner if inner in NAMES else node.module)
    return names


def at_import_time(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes that run when the module is imported: none inside functions."""
    todo: list[ast.AST] = [tree]
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            todo.extend(ast.iter_child_nodes(node))


def tops(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


def test_rooms_are_few_and_each_stands_in_the_table() -> None:
    rooms = {room_of(file) for file in MODULES} - {""}
    assert rooms == set(MAY_IMPORT) - {""} and len(rooms) <= MAX_ROOMS
    top = {file.name for file in MODULES if not room_of(file)}
    assert top == {"__init__.py", "__main__.py"}


@over(MODULES)
def test_imports_go_down(file: Path) -> None:
    room = room_of(file)
    names = imported(ast.walk(parse(file)))
    ours = {name for name in names if name.startswith("espnet_softpl.")}
    reached = {name.split(".")[1] for name in ours}
    assert reached <= MAY_IMPORT[room] | {room}
    if room not in ESPNET_ROOMS:
        assert not tops(names) & {"espnet", "espnet2"}


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """Return modules that import each other in a circle, or nothing."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name not in done:
            for other in sorted(graph.get(name, ())):
                if circle := visit(other, [*path, name]):
                    return circle
            done.add(name)
        return []

    return next((circle for name in graph if (circle := visit(name, []))), [])


def test_no_modules_import_each_other() -> None:
    graph = {}
    for file in MODULES:
        name = module_name(file)
        graph[name] = (imported(ast.walk(parse(file))) & NAMES) - {name}
    assert not find_circle(graph)
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


@over(MODULES)
def test_module_imports(file: Path) -> None:
    if file.name == "__main__.py":
        compile(file.read_text(encoding="utf-8"), str(file), "exec")
    else:
        importlib.import_module(module_name(file))
    assert "torchaudio" not in tops(imported(at_import_time(parse(file))))


def test_all_but_the_espnet_rooms_need_no_espnet() -> None:
    """Import them where ESPnet cannot be: blocked names raise, as if missing."""
    light = [
        module_name(file)
        for file in MODULES
        if room_of(file) not in {*ESPNET_ROOMS, ""}
    ]
    assert {"espnet_softpl.ctc", "espnet_softpl.data.scan"} <= set(light)
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
    run_python(script, *light)


def test_criteria_and_teachers_load_neither_audio_nor_yaml_nor_numba() -> None:
    script = """
import sys, espnet_softpl.criteria, espnet_softpl.teacher
heavy = {"yaml", "soundfile", "kaldiio", "espnet", "espnet2", "numba"}
heavy &= sys.modules.keys()
sys.exit(f"loaded: {heavy}" if heavy else 0)
"""
    run_python(script)


# Sizes, and what stands twice.


@over(MODULES)
def test_modules_are_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MAX_MODULE_LINES


def test_nine_of_ten_modules_have_a_test_file_of_their_name() -> None:
    modules = [file for file in MODULES if not file.name.startswith("__")]
    missing = []
    for file in modules:
        place = file.relative_to(PACKAGE)
        test = ROOT / "tests" / place.with_name(f"test_{place.name}")
        if not test.exists():
            missing.append(name_of(test))
    assert len(missing) <= 0.1 * len(modules), "\n".join(missing)


def code_lines(file: Path) -> list[tuple[str, str]]:
    """List place and text of the lines of code, without docstrings and imports."""
    tree = parse(file)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if not isinstance(body, list):
            continue
        node.body = [
            part
            for part in body
            if not isinstance(part, (ast.Import, ast.ImportFrom))
            and not (
                isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)
            )
        ] or [ast.Pass()]
    lines = (line.strip() for line in ast.unparse(tree).splitlines())
    return [(name_of(file), line) for line in lines if line]


def test_no_ten_lines_stand_twice() -> None:
    seen: dict[tuple[str, ...], str] = {}
    twice = set()
    for file in MODULES:
        lines = code_lines(file)
        for start in range(len(lines) - 9):
            block = tuple(text for _, text in lines[start : start + 10])
            if block in seen:
                twice.add(f"{seen[block]} and {name_of(file)}: {block[0]}")
            seen[block] = name_of(file)
    assert not twice


# Text.


def tensor_arguments(file: Path) -> Iterator[tuple[str, str]]:
    """Yield name and description of each tensor argument that a docstring has."""
    for node in ast.walk(parse(file)):
        if not isinstance(node, ast.FunctionDef) or node.name.startswith("_"):
            continue
        text = ast.get_docstring(node) or ""
        for arg in node.args.args:
            if arg.annotation and ast.unparse(arg.annotation) in TENSOR:
                pattern = rf"^    {arg.arg}: (.*?)(?=^    \w+: |^\w|\Z)"
                for match in re.finditer(pattern, text, re.M | re.S):
                    yield f"{node.name}({arg.arg})", match.group(1)


TENSOR = ("Tensor", "torch.Tensor")
MATH = ("core", "ctc", "labels", *sorted(PARTS), "monitors")
SHAPE = re.compile(r"\((\w|\.\.\.)[^()]*(,|\))|scalar|[Aa]ny shape")


@over([file for file in MODULES if room_of(file) in MATH])
def test_docstrings_give_the_shapes_of_tensors(file: Path) -> None:
    bare = [name for name, text in tensor_arguments(file) if not SHAPE.search(text)]
    assert not bare


@over([file for file in FILES if file.name != "LICENSE"])
def test_text_names_no_machine_and_no_open_ends(file: Path) -> None:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:  # A picture or a recording.
        return
    forbidden = {
        "a path of one machine": r"(?<![\w.}$~/-])"
        r"/(work|root|tmp|home|opt|Users)/[\w.]",
        "a package index": r"pypi\.org|pythonhosted\.org|download\.pytorch\.org",
        "an open end": r"\b(TO[D]O|FIX[M]E)\b",
    }
    for what, pattern in forbidden.items():
        match = re.search(pattern, text)
        assert match is None, f"{what}: {match}"


# Shell.


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
    assert {"setup.py", "pyproject.toml", "tests/run.sh", ".ci/run"} <= names
    assert PACKAGE / "ctc" / "ops.py" in MODULES
    assert {".ci/run", "tests/run.sh"} <= {name_of(file) for file in SHELL_FILES}
    assert dict(tensor_arguments(PACKAGE / "ctc" / "ops.py"))
