"""The plots of the study, from made-up lines."""

import importlib
import json
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT


@pytest.fixture(scope="module")
def plots() -> Iterator[types.ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks/study"))
        yield importlib.import_module("plots")


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    base = {"corpus": "c", "phase": "final", "decoding": "decode", "alarms": [7]}
    base |= {"settings": {"num_iters_per_epoch": 50}, "test": {"cer": 12.5}}
    base |= {"dev_cer_ctc": [0.25, 0.125]}
    runs = [base | {"system": s, "seed": n} for s in ("hard", "soft") for n in (1, 2)]
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in runs))
    return path


@pytest.fixture
def made(plots, monkeypatch) -> list:
    """The figures that are drawn."""
    figures: list = []
    make = plots.Figure

    def keep(*args, **named):
        figures.append(make(*args, **named))
        return figures[-1]

    monkeypatch.setattr(plots, "Figure", keep)
    return figures


def test_a_panel_for_each_corpus(plots, lines: Path, made) -> None:
    out = lines.parent / "rates.png"
    plots.main(["rates", str(out), "--lines", str(lines), "--only", "soft", "hard"])
    (axis,) = made[0].axes
    assert axis.get_title().startswith("c: ")
    assert [label.get_text() for label in axis.get_xticklabels()] == ["soft", "hard"]
    assert [bar.get_height() for bar in axis.patches] == [12.5, 12.5]
    assert [len(line.get_xdata()) for line in axis.lines] == [2, 2]
    assert out.read_bytes().startswith(b"\x89PNG")


def test_curves_have_mini_batches_and_alarms(plots, lines: Path, made) -> None:
    out = lines.parent / "curves.png"
    words = ["curves", str(out), "--lines", str(lines), "--seeds", "2", "--corpus", "c"]
    plots.main(words)
    rates = made[0].axes[0]
    assert rates.get_title().startswith("dev CER")
    hard, alarm = rates.lines[:2]
    assert hard.get_label() == "hard" and list(hard.get_ydata()) == [25.0, 12.5]
    assert list(hard.get_xdata()) == [50, 100] and list(alarm.get_xdata()) == [7, 7]
    assert hard.get_color() == alarm.get_color() != rates.lines[2].get_color()
    assert out.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="no such run"):
        plots.main([*words, "--phase", "tune"])
