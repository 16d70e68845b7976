"""What pages say about the code is so: monitors, names, messages, attributes."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from espnet_softpl.criteria import PLCriterion
from espnet_softpl.monitors.statistics import STATISTICS
from espnet_softpl.training.resume.interruption import explain_fault
from tests.support.doc_pages import DOCS, ROOT, read

PACKAGE = ROOT / "espnet_softpl"
MONITORS_PAGE = ROOT / "docs" / "monitors.md"
PAPER = ROOT / "docs" / "dev" / "paper_to_code.md"
TROUBLE = ROOT / "docs" / "troubleshooting.md"
WRITE = ROOT / "docs" / "write_a_criterion.md"
KEYS = {statistic.name for statistic in STATISTICS}
OTHERS = {"loss", "loss_labeled", "loss_pl"} | {
    "loss_pl_ctc",
    "loss_pl_interctc",
    "loss_pl_decoder",
}


def tables(page: Path, header: str) -> list[list[list[str]]]:
    """Return the cells of each table of a page whose header begins so."""
    found = re.findall(
        rf"^\| {re.escape(header)} \|.*\n\|[-|]+\n((?:\|.*\n)+)", read(page), re.M
    )
    return [
        [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows.splitlines()]
        for rows in found
    ]


def code(cell: str) -> list[str]:
    """Return what stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


@functools.cache
def resolve(name: str) -> Any:
    """Find `module.function`, `module.Class.method` and so on in the package."""
    parts = name.split(".")
    for size in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(["espnet_softpl", *parts[:size]]))
        except ModuleNotFoundError:
            continue
        for part in parts[size:]:
            # Of a dataclass without a default there is an annotation only.
            found = getattr(found, part)
        return found
    raise AttributeError(name)


# Monitors


def test_every_statistic_has_its_row() -> None:
    ((*rows,),) = tables(MONITORS_PAGE, "key")
    named = [name for row in rows for name in code(row[0])]
    assert len(named) == len(set(named)) and set(named) == KEYS | OTHERS
    assert all(all(cell for cell in row) for row in rows)


def test_every_statistic_names_its_function() -> None:
    ((*rows,),) = tables(PAPER, "key")
    assert {code(row[0])[0] for row in rows} == KEYS | OTHERS
    assert all(set(code(row[1])) <= names_in(PAPER) for row in rows)


def test_the_figures_of_a_collapse_are_those_of_the_study() -> None:
    ((*rows,),) = tables(MONITORS_PAGE, "label")
    source = read(ROOT / "docs" / "dev" / "collapse_study.md")
    assert len(rows) >= 4
    for label, wer, *monitors, _ in rows:
        name = re.escape(label.strip("`"))
        (line,) = re.findall(rf"^\| (?:\*\*)?{name}(?:\*\*)? \|.*→.*$", source, re.M)
        for figure in (wer, *monitors):
            assert figure in line, (label, figure)


# From the paper to the code


def names_in(page: Path) -> set[str]:
    """Return what looks like a name in one of the package's modules."""
    modules = "|".join(
        path.stem for path in PACKAGE.iterdir() if path.suffix in ("", ".py")
    )
    names = set(re.findall(rf"`((?:{modules})\.\w[\w.]*)`", read(page)))
    return {name for name in names if not name.endswith(".png")}


@pytest.mark.parametrize("page", [PAPER, WRITE], ids=lambda p: p.name)
def test_every_name_is_there(page: Path) -> None:
    names = names_in(page)
    assert len(names) >= 5
    for name in sorted(names):
        assert resolve(name) is not None, name


def test_every_implementation_is_a_name() -> None:
    """The columns that name code name nothing that the test above does not see."""
    names = names_in(PAPER)
    cells = [row[2] for rows in tables(PAPER, "formula") for row in rows]
    assert len(cells) > 15
    for cell in cells:
        assert set(code(cell)) <= names, cell


def test_a_missing_name_is_found() -> None:
    for name in ("ctc.greddy", "criteria.soft_ce.SoftCE.backwards", "nothing.at_all"):
        with pytest.raises((AttributeError, ModuleNotFoundError)):
            resolve(name)


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_test_that_is_named_is_there(page: Path) -> None:
    for file, test in re.findall(r"\b(tests/[\w/]+\.py)(?:::(\w+))?", read(page)):
        assert (ROOT / file).is_file(), file
        assert not test or f"def {test}(" in read(ROOT / file), f"{file}::{test}"


def test_statements_say_where_they_come_from() -> None:
    kinds = r"abstract|code|derived"
    for rows in tables(PAPER, "formula") + tables(PAPER, "statement"):
        assert all(re.search(kinds, row[1]) for row in rows)


# Write a criterion


def test_the_attributes_are_those_of_the_base_class() -> None:
    ((*rows,),) = tables(WRITE, "attribute")
    wanted = {name: getattr(PLCriterion, name) for name in PLCriterion.__annotations__}
    documented = {code(row[0])[0]: ast.literal_eval(code(row[1])[0]) for row in rows}
    assert documented == wanted


# Troubleshooting


class Texts(ast.NodeVisitor):
    """The strings of a program, with `...` for what is filled in."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.found.append(re.sub(r"%[-.\d]*[sdgfr]", "...", node.value))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        parts = []
        for value in node.values:
            filled = isinstance(value, ast.FormattedValue)
            parts.append("..." if filled else str(value.value))
        self.found.append("".join(parts))


@functools.cache
def sources() -> list[str]:
    """Return the strings of all programs, and the text of all scripts."""
    found = []
    recipe = ROOT / "egs2" / "librispeech_softpl"
    for file in (*PACKAGE.rglob("*.py"), *recipe.rglob("*.py")):
        texts = Texts()
        texts.visit(ast.parse(read(file)))
        found += texts.found
    for file in (*recipe.rglob("*.sh"), *(ROOT / "tools").glob("*.sh")):
        found += re.sub(r'" *\\\n *"', " ", read(file)).splitlines()
    return [" ".join(text.split()) for text in found]


def occurs(message: str) -> bool:
    """Tell whether a program says this; `...` stands for anything."""
    parts = [re.escape(part.strip()) for part in message.split("...") if part.strip()]
    pattern = re.compile(".*?".join(parts))
    return any(pattern.search(text) for text in sources())


def test_every_message_is_said_by_a_program() -> None:
    cells = [row[0] for rows in tables(TROUBLE, "message") for row in rows]
    assert len(cells) > 30
    messages = [message for cell in cells for message in code(cell)]
    assert not [message for message in messages if not occurs(message)]


def test_a_message_that_nobody_says_is_found() -> None:
    assert occurs("unknown key ...") and occurs("cannot resume: ... is missing")
    assert not occurs("unknown lock ...") and not occurs("is missing ... cannot resume")


def test_every_fault_of_the_machine_is_there(tmp_path: Path) -> None:
    text = read(TROUBLE)
    for error in (OSError(28, "No space"), RuntimeError("DataLoader worker died")):
        said = explain_fault(error, tmp_path)
        assert any(message in said for message in code(text)), said


def test_every_status_is_there() -> None:
    ((*rows,),) = tables(TROUBLE, "status")
    assert {"0", "1", "2", "3", "4", "130", "143"} <= {row[0] for row in rows}


# The index


def test_the_index_has_every_page() -> None:
    for folder in (ROOT / "docs", ROOT / "docs" / "dev"):
        text = read(folder / "README.md")
        pages = [page.name for page in DOCS if page.parent == folder]
        assert [name for name in pages if f"]({name})" not in text] == ["README.md"]
