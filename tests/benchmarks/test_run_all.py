"""The benchmark of all claims: its keys, its ratios, its page. Nothing is timed."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests import ROOT

PAGE = ROOT / "docs/performance.md"
EMPTY = "before\n<!-- figures -->\nold\n<!-- end of figures -->\nafter\n"


@pytest.fixture(scope="module")
def bench() -> Iterator[ModuleType]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("run_all")
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_all_claims_are_measured_and_the_page_is_made_of_them(bench, tmp_path) -> None:
    page, file = tmp_path / "page.md", tmp_path / "figures.json"
    page.write_text(EMPTY)
    assert bench.main(["--quick", "--json", str(file), "--page", str(page)]) == 0
    figures = json.loads(file.read_text())
    for key in bench.CLAIMS:
        assert math.isfinite(figures[key]), key
        # A step may wait less often than a stock one, and two thousand utterances
        # cost no more than what start-ups differ by.
        differs = key.startswith(("host_syncs", "ops_", "startup", "memory"))
        assert figures[key] >= 0.0 or differs, key
    for key in ("ema_step_over_arithmetic", "label_vs_stock"):
        assert figures[f"{key}.low"] <= figures[key] <= figures[f"{key}.high"]
    watched = bench.step_profile.BOOKKEEPING
    assert all(figures[f"profile.{item}.step_ms"] > 0.0 for item in watched)
    assert figures["profile.teacher follows.arithmetic_ms"] == 0.0
    written = page.read_text()
    assert written.startswith("before\n") and written.endswith("\nafter\n")
    assert "old" not in written and str(tmp_path) not in written
    page.write_text(EMPTY)
    bench.write_page(figures, page)
    assert page.read_text() == written


def test_the_page_has_every_claim_with_its_goal(bench) -> None:
    text = PAGE.read_text(encoding="utf-8")
    for key, (words, goal, form) in bench.CLAIMS.items():
        wanted = "" if goal is None else f"≤ {format(goal, form)}"
        assert f"| `{key}` | {words} | {wanted} |" in text


def test_a_page_without_a_place_is_refused(bench, tmp_path) -> None:
    figures = dict.fromkeys(bench.CLAIMS, 1.0)
    names = ("stock", "teacher", "labeled", "hard_ctc", "soft_ctc", "cached")
    figures |= {f"{name}_ms": 1.0 for name in names}
    figures |= {f"machine.{k}": "x" for k in ("cpu", "threads", "device", "torch")}
    names = ("command", "date", "commit", "rounds", "batch", "seconds", "seed")
    figures |= dict.fromkeys(names, 1)
    figures |= {"profile.all.step_ms": 2.0, "profile.all.arithmetic_ms": 1.0}
    page = tmp_path / "page.md"
    page.write_text("no marks\n")
    with pytest.raises(ValueError, match="no place"):
        bench.write_page(figures, page)
    assert page.read_text() == "no marks\n"


def test_ratios_are_those_of_one_round(bench) -> None:
    times = dict(stock=3.0, stock_2_views=6.0, teacher=1.0, labeled=3.3, hard_ctc=4.4)
    times |= dict(soft_ce=4.0, soft_ctc=6.0, nbest_ctc=5.0, consistency=7.7)
    times |= dict(cached=3.3, replacing=6.3)
    found = bench.step_ratios({name: [t, 2 * t] for name, t in times.items()})
    assert found["ema_step_over_arithmetic"] == pytest.approx([1.1, 1.1])
    assert found["ema_soft_ctc_over_arithmetic.consistency"][1] == pytest.approx(1.1)
    # 0.9 * 3.3 + 0.1 * 6.3 = 3.6; 3.0 + 0.1 * 1.0 = 3.1
    assert found["refresh_step_over_arithmetic"][0] == pytest.approx(3.6 / 3.1)
    assert found["labeled_step_ratio"][0] == pytest.approx(1.1)
    assert set(found) <= set(bench.CLAIMS)


def test_turns_rotate_and_the_first_round_does_not_count(bench) -> None:
    order: list[str] = []
    arms = {n: lambda n=n: order.append(n) or float(len(order)) for n in "abc"}
    taken = bench.take_turns(arms, 2)
    assert "".join(order) == "abc" + "cab" + "bca"
    assert taken == {"a": [5, 9], "b": [6, 7], "c": [4, 8]}


def test_spans_leave_out_what_inner_functions_take(bench) -> None:
    times = iter([0.0, 1.0, 4.0, 10.0])
    spans = bench.step_profile.Spans(lambda: next(times))
    inner = spans.wrap("{who}'s inner", lambda: None)
    with torch.no_grad():
        spans.wrap("outer", lambda: inner())()
    assert spans.seconds == {"teacher's inner": 3.0, "outer": 7.0}


def test_functions_are_timed_only_meanwhile(bench) -> None:
    spans = bench.step_profile.Spans(lambda: 0.0)
    before = Path.exists
    with spans.on({"exists": ["pathlib:Path.exists"]}):
        assert Path.exists is not before and PAGE.exists()
    assert Path.exists is before and "exists" in spans.seconds


def test_bad_arguments_are_refused(bench, capsys) -> None:
    for arguments in (["--rounds", "0"], ["--seconds", "0.5"], ["--device", "tpu"]):
        with pytest.raises(SystemExit) as stop:
            bench.parse_arguments(arguments)
        assert stop.value.code == 2
        assert arguments[0] in capsys.readouterr().err
    assert bench.parse_arguments([]).page == PAGE
    assert bench.parse_arguments(["--quick"]).page is None
