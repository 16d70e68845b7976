"""What the collapse benchmark makes of its runs; the runs themselves take too long."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import yaml

from tests import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import collapse
import common

from espnet_softpl import (
    criteria,
    regularizers,
    shaping,
)
from espnet_softpl.core.registry import named_confs
from espnet_softpl.monitors import guard

STEPS = [0, 20, 40, 60]


def run_of(wer: list[float], blank: list[float]) -> dict:
    """Make a run: dev WER at `STEPS`, blank share of each unlabeled batch."""
    values = {name: [0.5] * len(blank) for name in guard.MONITORS}
    values["pl_vocabulary"] = [None] * len(blank)
    values["pl_blank_share"] = blank
    return {
        "dev": {"step": STEPS, "wer": wer, "cer": [rate / 2 for rate in wer]},
        "monitors": {"steps": list(range(1, len(blank) + 1)), "values": values},
    }


HEALTHY = [0.3] * 60
FALLING = [0.3] * 25 + [0.05] * 35


def test_a_row_says_when_errors_rose_and_when_the_guard_fired() -> None:
    runs = [
        run_of([0.5, 0.5, 0.54, 1.0], FALLING),
        run_of([0.5, 0.4, 0.4, 0.4], HEALTHY),
        run_of([0.5, 0.6, 0.7, 0.8], HEALTHY),
    ]
    row = collapse.summarize(runs)
    assert row["risen"] == [40, None, 10]  # On the lines between two decodings.
    assert 25 < row["alarm"][0] < 40 and row["alarm"][1:] == [None, None]
    assert row["wer_start"] == pytest.approx(50.0)
    assert row["wer_end"] == pytest.approx(100 * (1.0 + 0.4 + 0.8) / 3)
    assert row["wer_worst"] == pytest.approx(100 * (1.0 + 0.5 + 0.8) / 3)
    assert (row["wer_end_min"], row["wer_end_max"]) == (40.0, 100.0)
    assert row["pl_vocabulary_end"] is None
    words = collapse.verdict(row)
    assert words == f"in time ({row['alarm'][0]}, 40), silent, missed (10)"
    assert "late" in collapse.verdict({"risen": [20], "alarm": [40]})
    assert "unneeded" in collapse.verdict({"risen": [None], "alarm": [40]})


def test_the_table_and_the_plot(tmp_path) -> None:
    runs = [run_of([0.5, 0.5, 0.54, 1.0], FALLING)]
    found = {"soft_ce": runs, "hard_ctc": [run_of([0.5] * 4, HEALTHY)]}
    rows = {name: collapse.summarize(runs) for name, runs in found.items()}
    lines = collapse.table(rows)
    assert all(len(line) == len(collapse.COLUMNS) for line in lines)
    assert "100.0" in common.format_table(collapse.COLUMNS, lines)
    collapse.plot(found, tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 10_000


def test_the_figures_are_one_flat_object(tmp_path) -> None:
    runs = [run_of([0.5, 0.5, 0.54, 1.0], FALLING), run_of([0.5] * 4, HEALTHY)]
    figures = collapse.flatten({"soft_ce": collapse.summarize(runs)}, [1, 2])
    assert figures["soft_ce.risen.seed1"] == 40
    assert figures["soft_ce.alarm.seed2"] is None
    assert not any(isinstance(value, (list, dict)) for value in figures.values())
    common.write_json(tmp_path / "x.json", figures)


def test_infinite_and_unknown_monitors_survive_the_way_through_json() -> None:
    run = run_of([0.5] * 4, [math.nan, *HEALTHY])
    run["monitors"]["values"]["pl_blank_share"][0] = None
    assert collapse.first_alarm(run["monitors"]) == (None, "")


def test_every_kind_of_label_is_among_the_methods() -> None:
    used = {m["pl_criterion"] for m in collapse.METHODS.values()}
    confs = [m.get("pl_criterion_conf", {}) for m in collapse.METHODS.values()]
    used |= {part["criterion"] for conf in confs for part in conf.get("parts", ())}
    assert used == set(criteria.available())
    shaped = {n for m in collapse.METHODS.values() for n in m.get("pl_shaping", ())}
    # A temperature of soft_ce is the same as sharpening its teacher, and sampled_ctc
    # draws as `sample` does, but again at every step. Labels with a language model
    # know more than the others.
    elsewhere = {"sharpen", "sample", "lm_posterior", "rescore"}
    assert shaped == set(shaping.available()) - elsewhere
    regular = {
        n for m in collapse.METHODS.values() for n in m.get("pl_regularizer", ())
    }
    assert regular == set(regularizers.available())
    assert any(m.get("pl_separate_head") for m in collapse.METHODS.values())


@pytest.mark.parametrize(
    "method",
    [*collapse.METHODS.values(), *collapse._border().values()],
    ids=[*collapse.METHODS, *collapse._border()],
)
def test_the_settings_of_every_method_are_legal(method) -> None:
    criteria.build(method["pl_criterion"], **method.get("pl_criterion_conf", {}))
    for kind, module in (("shaping", shaping), ("regularizer", regularizers)):
        names = method.get(f"pl_{kind}", [])
        conf = method.get(f"pl_{kind}_conf", {})
        for name, settings in named_confs(kind, names, conf).items():
            module.build(name, **settings)


def test_a_run_is_the_preset_with_the_method_on_top(tmp_path) -> None:
    recipe = tmp_path / "recipe"
    tuning = recipe / "conf/tuning"
    tuning.mkdir(parents=True)
    preset = ROOT / "egs2/librispeech_softpl/conf/tuning/train_pl_hard_ctc.yaml"
    (tuning / preset.name).write_text(yaml.safe_dump(common.read_config(preset)))
    dev, valid = recipe / "dump/mini/dev", recipe / "exp/mini/stats_char/valid"
    for place, name in ((dev, "wav.scp"), (dev, "text"), (valid, "speech_shape")):
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("".join(f"u{i:02d} {name}\n" for i in range(20)))
    method = {"pl_criterion": "soft_ce", "specaug": None}
    conf = collapse.configure(method, 2, recipe, tmp_path)
    before = common.read_config(preset)
    assert conf["encoder_conf"] == before["encoder_conf"]
    assert conf["pl_criterion"] == "soft_ce" and conf["seed"] == 2
    assert conf["pl_teacher_conf"] == collapse.SETTING["pl_teacher_conf"]
    assert "specaug" not in conf
    assert conf["init_param"] == [str(collapse.seed_model(recipe, 2))]
    other = collapse.configure({**method, "init_param": ["x"]}, 2, recipe, tmp_path)
    assert other["init_param"] == ["x"]
    written = Path(conf["valid_shape_file"][0]).read_text().splitlines()
    assert len(written) == 8 and written[0] == "u00 speech_shape"
