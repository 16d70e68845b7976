"""Decodings are found in all layouts, with their references, and scored."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.support.espnet_runs import Data
from tests.support.report_pages import copy, run_report


def decode(exp: Path, data: Data, change: str = "") -> None:
    """Leave what decoding the dev set leaves, in `asr.sh`'s layout."""
    place = exp / "decode_ctc" / "dev"
    place.mkdir(parents=True)
    text = Path(data.path("dev", "text")).read_text()
    (place / "text").write_text(text.replace(" A", f" {change}", 1) if change else text)


@pytest.mark.slow
def test_decoded_sets_have_intervals(runs, data, tmp_path) -> None:
    exp = copy(runs["cached"], tmp_path / "exp")
    decode(exp, data, change="B")
    page = run_report(exp, runs["stock"], out=tmp_path / "out")
    row = page.row("exp", "0", "decode_ctc")[1:]
    texts = Path(data.path("dev", "text")).read_text().splitlines()
    characters = sum(len(line.split(maxsplit=1)[1]) for line in texts)
    assert row[2].startswith(f"{100 / characters:.1f} ±")
    assert row[2].endswith("1 S, 0 D, 0 I")
    assert "Nothing has been decoded yet of stock" in page.words
    assert set(page.charts("error_rates")) == {"CER (%)", "WER (%)"}


@pytest.mark.slow
def test_references_are_found_or_named(runs, data, tmp_path, capsys) -> None:
    exp = copy(runs["stock"], tmp_path / "exp")
    place = exp / "decode_lm" / "test_other"
    place.mkdir(parents=True)
    (place / "text").write_text("a A B\nb C\n")
    page = run_report(exp, out=tmp_path / "one")
    assert "no references were found; name them with --ref_text test_other=FILE" in (
        page.words
    )
    truth = tmp_path / "text"
    truth.write_text("a A B\nb A\n")
    more = ("--ref_text", f"test_other={truth}")
    page = run_report(exp, out=tmp_path / "two", more=more)
    assert page.row("exp", "0", "decode_lm")[4].startswith("33.3 ±")
    # Scored by asr.sh: sclite's references, with the speaker before the utterance.
    (place / "score_wer").mkdir()
    (place / "score_wer" / "ref.trn").write_text("A B\t(s-1-a)\nA A A\t(s-b)\n")
    page = run_report(exp, out=tmp_path / "three")
    assert page.row("exp", "0", "decode_lm")[4].startswith("60.0 ±")
    # Not all of it is decoded.
    truth.write_text("a A B\nb A\nc A\n")
    page = run_report(exp, out=tmp_path / "four", more=more)
    assert "1 utterances of test_other were not decoded: c" in page.words


@pytest.mark.slow
def test_the_recipe_s_layout(runs, data, tmp_path) -> None:
    root = tmp_path / "recipe"
    exp = copy(runs["stock"], root / "exp/mini/seed1/control")
    settings = yaml.safe_load((exp / "config.yaml").read_text())
    settings["valid_data_path_and_name_and_type"][0][0] = "dump/mini/dev/wav.scp"
    (exp / "config.yaml").write_text(yaml.safe_dump(settings))
    for part, key in (("dev", "d"), ("test", "t")):
        place = root / "dump/mini/org" / part
        place.mkdir(parents=True)
        (place / "text").write_text(f"{key} A B\n")
        (place / "utt2set").write_text(f"{key} {part}\n")
    (root / "dump/mini/dev").mkdir()
    (root / "dump/mini/dev/wav.scp").write_text("d d.wav\n")
    (exp / "decode/1/1best_recog").mkdir(parents=True)
    for file in ("decode/text", "decode/1/1best_recog/text"):
        (exp / file).write_text("d A B\nt A C\n")
    page = run_report(exp, out=tmp_path / "out")
    row = page.row("control", "1", "decode")[1:]
    assert [cell.split(" ±")[0] for cell in row[2:]] == ["0.0", "0.0", "33.3", "50.0"]
