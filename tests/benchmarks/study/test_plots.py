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


def test_a_panel_for_each_corpus(plots, lines: Path, monkeypatch) -> None:
    figures: list = []
    make = plots.Figure

    def keep(*args, **named):
        figures.append(make(*args, **named))
        return figures[-1]

    monkeypatch.setattr(plots, "Figure", keep)
    out = lines.parent / "rates.png"
    plots.main(["rates", str(out), "--lines", str(lines), "--only", "soft", "hard"])
    (axis,) = figures[0].axes
    assert axis.get_title().startswith("c: ")
    assert [label.get_text() for label in axis.get_xticklabels()] == ["soft", "hard"]
    assert [bar.get_height() for bar in axis.patches] == [12.5, 12.5]
    assert [len(line.get_xdata()) for line in axis.lines] == [2, 2]
    assert out.read_bytes().startswith(b"\x89PNG")


def test_curves_have_mini_batches_and_alarms(plots, lines: Path, monkeypatch) -> None:
    drawn: list = []
    monkeypatch.setattr(plots.figures, "draw_curves", lambda *args: drawn.extend(args))
    words = ["curves", "x.png", "--lines", str(lines), "--seeds", "2", "--corpus", "c"]
    plots.main(words)
    panels, (hard, soft), path = drawn
    assert (hard.name, soft.name, path) == ("hard", "soft", Path("x.png"))
    assert hard.history == {"valid/cer_ctc": [(50, 0.25), (100, 0.125)]}
    assert hard.alarms == [(7, "")]
    assert "valid/cer_ctc" in panels
    with pytest.raises(SystemExit, match="no such run"):
        plots.main(["curves", "x.png", "--lines", str(lines), "--phase", "tune"])
