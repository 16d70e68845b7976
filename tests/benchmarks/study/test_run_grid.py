"""The study's runs: the grid is right, a scored run becomes a line."""

import importlib
import json
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import ROOT

RECIPE = ROOT / "egs2/librispeech_softpl"


@pytest.fixture(scope="module")
def study() -> Iterator[types.ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks/study"))
        yield importlib.import_module("run_grid")


def test_the_grid_names_what_there_is(study) -> None:
    grid = yaml.safe_load((study.HERE / "grid.yaml").read_text())
    for change in grid["systems"].values():
        assert (RECIPE / f"conf/tuning/train_pl_{change['base']}.yaml").is_file()
    phases = [phase for phase in grid if phase != "systems"]
    for part in (part for phase in phases for part in grid[phase].items()):
        assert (RECIPE / f"conf/corpora/{part[0]}.sh").is_file()
        known = {*study.SUPERVISED, *grid["systems"]}
        assert known.issuperset(part[1]["systems"])
        assert part[1]["seeds"]


def test_a_preset_has_its_base(study, tmp_path: Path) -> None:
    change = {"base": "hard_ctc", "optim_conf": {"lr": 0.5}}
    file = study.write_preset("faster", change, tmp_path)
    assert file == Path("exp/study/faster.yaml")
    base = "../../conf/tuning/train_pl_hard_ctc.yaml"
    written = yaml.safe_load((tmp_path / file).read_text())
    assert written == {"base_config": base, "optim_conf": {"lr": 0.5}}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """Make what stage 11 leaves of one run with two utterances in each set."""
    for part in ("labeled", "unlabeled", "dev", "test"):
        folder = tmp_path / "dump/c/org" / part
        folder.mkdir(parents=True)
        samples = "a 480000\nb 480000\nsp0.9-a 16000\n"
        (folder / "utt2num_samples").write_text(samples)
    for part in ("dev", "test"):
        folder = tmp_path / "dump/c/org" / part
        (folder / "text").write_text(f"{part}1 A B\n{part}2 C D E\n")
        (folder / "utt2set").write_text(f"{part}1 {part}\n{part}2 {part}\n")
    directory = tmp_path / "exp/c/seed3/soft"
    (directory / "decode").mkdir(parents=True)
    text = "dev1 A B\ndev2 C D E\ntest1 A\ntest2 C X E\n"
    (directory / "decode/text").write_text(text)
    conf = {"pl_criterion": "soft_ce", "max_epoch": 2, "pl_filter": [], "ngpu": 0}
    conf |= {"unlabeled_shape_file": ["there"], "frontend_conf": {"fs": 16000}}
    (directory / "config.yaml").write_text(yaml.safe_dump(conf))
    return tmp_path


@pytest.mark.parametrize("phase", ["tune", "collapse", "final"])
def test_a_line_tells_all(study, recipe: Path, phase: str) -> None:
    record = {"system": "soft", "seed": "3", "updates": 7, "seconds": 1.6}
    record["history"] = {"train/pl_cer": [[50, 0.25], [100, 0.125]]}
    record["history"]["train/pl_blank_share"] = [[50, 0.5]]
    (recipe / "exp/c/seed3/soft/pl_collapse/step40").mkdir(parents=True)
    (recipe / "exp/c/seed3/soft/pl_collapse/step7").mkdir()
    line = study.make_line(record, phase, "decode", recipe / "exp/c", recipe / "dump/c")
    assert json.loads(json.dumps(line)) == line
    assert line["settings"] == {"pl_criterion": "soft_ce", "max_epoch": 2}
    assert line["pl_cer"] == [0.25, 0.125]
    assert line["pl_blank_share"] == [0.5]
    assert line["alarms"] == [7, 40]
    # Two utterances of half a minute; copies at other speeds are not counted.
    assert line["minutes"] == dict.fromkeys(("labeled", "unlabeled", "dev", "test"), 1)
    assert (line["corpus"], line["seed"], line["seconds"]) == ("c", 3, 2)
    assert line["dev"]["cer"] == 0.0
    # While settings are tuned nobody sees the test set.
    assert ("test" in line) == (phase == "final")
    if phase == "final":
        # "A B" without " B", "C D E" with one letter wrong: 3 of 8, 2 of 5 words.
        assert line["test"]["char_errors"] == [2, 1]
        assert line["test"]["cer"] == pytest.approx(37.5)
        assert line["test"]["word_errors"] == [1, 1]
        assert line["test"]["wer"] == pytest.approx(40.0)


def test_unknown_names_are_refused(study) -> None:
    with pytest.raises(SystemExit, match="no nowhere in tune"):
        study.main(["tune", "nowhere"])
    with pytest.raises(SystemExit, match="no system nothing"):
        study.main(["tune", "commands_ar", "--only", "nothing"])


def test_seeds_that_lack_the_same_run_together(study) -> None:
    known = {("control", 1), ("control", 2), ("soft", 2), ("soft", 4), ("control", 4)}
    groups = study.open_runs(["control", "soft"], [1, 2, 3, 4, 5], known)
    assert groups == {("soft",): [1], ("control", "soft"): [3, 5]}


RUN = """#!/bin/sh
printf '%s\\n' "$@" > words
printf '[{"system": "soft", "seed": "3", "updates": 7, "seconds": 1, "history": {}},' \\
    > exp/c/results.json
printf '{"system": "other", "seed": "3"}]' >> exp/c/results.json
"""


def test_what_has_a_line_is_not_run_again(study, recipe: Path, monkeypatch) -> None:
    (recipe / "run.sh").write_text(RUN)
    (recipe / "run.sh").chmod(0o755)
    grid = {"systems": {"soft": {"base": "soft_ce"}}}
    grid["final"] = {"c": {"seeds": [3], "systems": ["soft"]}}
    (recipe / "grid.yaml").write_text(yaml.safe_dump(grid))
    monkeypatch.setattr(study, "HERE", recipe)
    words = ["final", "c", "--recipe", str(recipe), "--lines", str(recipe / "lines")]
    study.main([*words, "--", "--words", "DIR"])
    said = (recipe / "words").read_text().splitlines()
    assert said[-2:] == ["--words", "DIR"]
    assert said[said.index("--seeds") + 1] == "3"
    assert said[said.index("--pl_config") + 1] == "exp/study/soft.yaml"
    assert said[said.index("--run_control") + 1] == "false"
    (line,) = study.read_lines(recipe / "lines")
    assert (line["system"], line["seed"]) == ("soft", 3)
    (recipe / "words").unlink()
    study.main(words)
    assert not (recipe / "words").exists()
