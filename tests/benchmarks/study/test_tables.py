"""The tables of the study: tests and intervals from made-up lines."""

import importlib
import json
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT


@pytest.fixture(scope="module")
def tables() -> Iterator[types.ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks/study"))
        yield importlib.import_module("tables")


def line(system: str, seed: int, errors: list[int]) -> dict:
    part = {"cer": sum(errors) / 2, "wer": 1.0, "chars": 200, "words": 40}
    part |= {"char_errors": errors, "word_errors": errors}
    base = {"corpus": "c", "phase": "final", "decoding": "decode"}
    return {**base, "system": system, "seed": seed, "test": part}


def test_systems_are_compared_by_seed(tables) -> None:
    lines = {
        ("control", 1): line("control", 1, [4, 6]),
        ("control", 2): line("control", 2, [5, 5]),
        ("soft", 1): line("soft", 1, [2, 4]),
        ("soft", 2): line("soft", 2, [3, 3]),
        ("soft", 3): line("soft", 3, [99, 99]),  # Its control is not there.
    }
    found = tables.compare(lines, "soft", "control", "char")
    # Each utterance has two errors less in both seeds: 4 of 200, in each draw.
    # The control has ten of them in each seed.
    assert found[:-1] == (2, -2.0, -40.0, -2.0, -2.0, 0.5)
    assert tables.compare(lines, "soft", "other", "char") is None


def test_the_table_is_printed(tables, tmp_path: Path, capsys) -> None:
    path = tmp_path / "runs.jsonl"
    records = [line("control", 1, [4, 6]), line("soft", 1, [2, 4])]
    path.write_text("".join(json.dumps(each) + "\n" for each in records))
    assert tables.main(["c", "--lines", str(path)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[2] == "| control | 1 | 5.0 | 1.0 | - |"
    assert rows[3].endswith("| -2.00 (-40 %; -2.00 to -2.00, p 1.000) |")
    with pytest.raises(SystemExit, match="no run"):
        tables.main(["d", "--lines", str(path)])


def test_more_columns(tables) -> None:
    curves = {"pl_cer": [0.25, 0.125], "dev_cer_ctc": [0.1, 0.4, 0.2], "alarms": [7, 9]}
    lines = {
        ("warmup", 1): line("warmup", 1, [4]) | {"dev_cer_ctc": [0.1], "alarms": []},
        ("soft", 1): line("soft", 1, [4]) | curves,
        ("soft", 2): line("soft", 2, [4]) | curves | {"alarms": []},
    }
    names = ["labels", "highest", "alarm"]
    rows = tables.make_table(lines, [], "test", ["char"], names)
    assert rows[0].endswith("| first alarm at mini-batch |")
    assert rows[2].endswith("| - | 10.0, 10.0 | - |")
    assert rows[3].endswith("| 25.0 to 12.5 | 40.0, 20.0 | 7, - |")


PAGES = ("docs/study.md", "docs/choose.md", "README.md")
PAGES += ("egs2/librispeech_softpl/RESULTS.md",)
PAGE = """A gain of 40 %, or 2.00 points, p < 0.05, with `decay 0.99` (arXiv:1234.5678).
<!-- study: c --against control -->
<!-- end -->
The control has 5.0.
"""


def test_a_page_gets_its_tables(tables, tmp_path: Path, monkeypatch) -> None:
    runs, page = tmp_path / "runs.jsonl", tmp_path / "page.md"
    records = [line("control", 1, [4, 6]), line("soft", 1, [2, 4])]
    runs.write_text("".join(json.dumps(each) + "\n" for each in records))
    monkeypatch.setattr(tables, "LINES", runs)
    page.write_text(PAGE)
    tables.main(["--write", str(page)])
    once = page.read_text()
    assert "| soft | 1 | 3.0 | 1.0 | -2.00 (-40 %;" in once
    assert once.startswith(PAGE[:80]) and once.endswith("The control has 5.0.\n")
    tables.main(["--write", str(page)])
    assert page.read_text() == once
    assert tables.strange_numbers(once) == []


def test_numbers_that_no_table_has_are_found(tables) -> None:
    assert tables.strange_numbers(PAGE) == ["40", "2.00", "5.0"]


@pytest.mark.parametrize("name", PAGES)
def test_the_pages_say_what_the_lines_say(tables, name: str) -> None:
    page = (ROOT / name).read_text(encoding="utf-8")
    assert tables.fill(page, tables.table_of) == page
    assert tables.TABLE.search(page)
    if name == "docs/study.md":
        assert tables.strange_numbers(page) == []
