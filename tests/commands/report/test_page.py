"""The report: what is on the page, in every state that an experiment can be in."""

from __future__ import annotations

import base64
import html.parser
import json
import re
import shlex
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask

from espnet_softpl.bin import report
from espnet_softpl.commands.report.comparisons import thin
from espnet_softpl.commands.report.differences import Word, compare, differing
from espnet_softpl.commands.report.experiment import names_of
from espnet_softpl.commands.report.history import (
    parse_results,
    progress_of,
    read_statistics,
)
from espnet_softpl.commands.report.meaning import MEANING
from espnet_softpl.monitors.samples import SampleRecorder, choose
from espnet_softpl.monitors.statistics import ALWAYS
from espnet_softpl.training.task import SoftPLTask
from tests import ROOT
from tests.end_to_end.test_guard import OFF
from tests.support.espnet_runs import PL, Data, config, load, make_data, train

# Elements that have no end tag.
VOID = {"meta", "img", "br", "hr", "link", "input"}
EVIL = "<script>alert('x')</script>&amp;"


class Page(html.parser.HTMLParser):
    """Parses a page strictly: every element is closed by its own end tag."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        data = data.replace("\N{NO-BREAK SPACE}", " ")
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.strip("\n")

    @property
    def words(self) -> str:
        """All text, with single spaces."""
        return " ".join("".join(self.text).split())

    def row(self, first: str, *more: str) -> list[str]:
        """Find the row that begins so."""
        wanted = [first, *more]
        return next(row for row in self.rows if row[: len(wanted)] == wanted)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def check_page(path: Path) -> Page:
    """Assert what holds of every page, and return it parsed."""
    page = Page(path)
    names = [name for name, _ in page.tags]
    assert names.count("h1") == names.count("main") == names.count("title") == 1
    assert not {"script", "link", "iframe", "object", "form"} & set(names)
    for image in page.all("img"):
        head, data = image["src"].split(",")
        assert head == "data:image/png;base64" and len(image["alt"]) > 20
        content = base64.b64decode(data, validate=True)
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        # The same file is beside the page.
        assert content in [file.read_bytes() for file in path.parent.glob("*.png")]
    anchors = {attributes.get("id") for _, attributes in page.tags}
    links = [link["href"] for link in page.all("a")]
    assert links and all(link[0] == "#" and link[1:] in anchors for link in links)
    text = path.read_text(encoding="utf-8")
    assert "http" not in text and "url(" not in text and "@import" not in text
    for header in page.all("th"):
        assert header["scope"] in ("col", "row", "rowgroup")
    assert names.count("caption") == names.count("table") > 0
    return page


def run_report(*experiments: Path, out: Path, more: tuple[str, ...] = ()) -> Page:
    """Run the command as a user does, and check the page."""
    assert report.main([*map(str, experiments), "--out", str(out), *more]) == 0
    return check_page(out / "report.html")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


ALARMING = dict(
    reference_steps=1,
    window=1,
    patience=1,
    limits={**OFF, "pl_frame_entropy": {"highest": None, "above": 1e-6}},
)


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory) -> dict[str, Path]:
    """A supervised run, and two with pseudo-labels: a cache, and an alarm."""
    root = tmp_path_factory.mktemp("exp")
    short = dict(max_epoch=2, num_iters_per_epoch=6)
    stock = config(**data.options(unlabeled=False), **short)
    everything = dict(pl_filter_conf={"min_tokens": 0}, **short)
    cached = {
        **everything,
        **dict(PL, pl_teacher="student", pl_teacher_conf={}),
        "pl_cache": "slimipl",
        "pl_cache_conf": {"size": 2, "probability": 0.5},
        "pl_samples": 20,
    }
    alarmed = {**everything, **PL, "pl_guard_conf": ALARMING, "pl_samples": 20}
    return {
        "stock": train(ASRTask, stock, root / "stock"),
        "cached": train(
            SoftPLTask, config(**data.options(), **cached), root / "cached"
        ),
        "alarmed": train(
            SoftPLTask, config(**data.options(), **alarmed), root / "alarmed"
        ),
    }


def decode(exp: Path, data: Data, change: str = "") -> None:
    """Leave what decoding the dev set leaves, in `asr.sh`'s layout."""
    place = exp / "decode_ctc" / "dev"
    place.mkdir(parents=True)
    text = Path(data.path("dev", "text")).read_text()
    (place / "text").write_text(text.replace(" A", f" {change}", 1) if change else text)


def copy(exp: Path, to: Path) -> Path:
    return Path(shutil.copytree(exp, to, symlinks=True))


def test_three_experiments_that_are_not_decoded(runs, tmp_path, capsys) -> None:
    page = run_report(*runs.values(), out=tmp_path / "out")
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out/report.html")
    assert "Nothing has been decoded yet: what follows are" in page.words
    stats = load(runs["cached"] / "checkpoint.pth")["reporter"]["stats"]
    row = page.row("cached", "hard_ctc", "student", "slimipl", "2 of 2", "12")
    best = min(stats[epoch]["valid"]["cer_ctc"] for epoch in (1, 2))
    assert row[7:] == [f"{100 * best:.1f}", "0", "all 2 epochs done"]
    assert page.row("stock", "supervised", "–", "–", "2 of 2", "12")
    ends = [100 * stats[epoch]["train"]["pl_cer"] for epoch in (1, 2)]
    label_row = page.row("cached", f"{ends[0]:.1f} → {ends[1]:.1f}")
    assert "tokens 0.0 → 0.0" in label_row
    used = [stats[epoch]["train"]["pl_uses"] for epoch in (1, 2)]
    assert page.row("cached", "slimipl", "2")[4] == f"{used[0]:.3g} → {used[1]:.3g}"
    assert page.row("cached", "1 : 1", "0", "1.0")
    assert page.row("pl_cache differs")[1:] == ['"slimipl"', '"none"']
    assert page.row("pl_cache_conf.size differs")[1:] == ["2", "–"]
    assert page.row("pl_criterion")[1:] == ['"hard_ctc"', '"hard_ctc"']
    files = {file.name for file in (tmp_path / "out").iterdir()}
    wanted = {"validation", "pl_quality", "collapse", "losses", "cache"}
    assert "The same all the time: weight of the unlabeled loss: 1." in page.words
    assert files == {"report.html", *(f"{name}.png" for name in wanted)}


def test_alarms_and_limits_are_shown(runs, tmp_path) -> None:
    page = run_report(runs["alarmed"], runs["cached"], out=tmp_path / "out")
    assert page.row("alarmed", "hard_ctc")[8] == "1"
    assert "alarmed: 1 alarm." in page.words
    assert "Collapse guard: alarm 1 at step" in page.words
    assert "more labeled_steps" in page.words  # The advice of the report.
    state = torch.load(runs["alarmed"] / "pl_state/2epoch.rank0.pth", weights_only=True)
    track = state["guard"]["tracks"]["pl_frame_entropy"]
    row = page.row("pl_frame_entropy mean entropy of a frame (nats)")
    assert row[2].startswith(f"{track['reference']:.3g} → {track['level']:.3g}")
    assert "BEYOND ITS LIMIT, legal to 1e-06" in row[2]
    # Of the other one the guard has not seen enough yet.
    assert row[3].startswith("– not known yet")


def test_decoded_sets_have_intervals(runs, data, tmp_path) -> None:
    exp = copy(runs["cached"], tmp_path / "exp")
    decode(exp, data, change="B")
    page = run_report(exp, runs["stock"], out=tmp_path / "out")
    row = page.row("exp", "decode_ctc")
    texts = Path(data.path("dev", "text")).read_text().splitlines()
    characters = sum(len(line.split(maxsplit=1)[1]) for line in texts)
    assert row[2].startswith(f"{100 / characters:.1f} ±")
    assert row[2].endswith("1 S, 0 D, 0 I")
    assert "Nothing has been decoded yet of stock" in page.words
    assert (tmp_path / "out" / "error_rates.png").is_file()


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
    assert page.row("exp", "decode_lm")[3].startswith("33.3 ±")
    # Scored by asr.sh: sclite's references, with the speaker before the utterance.
    (place / "score_wer").mkdir()
    (place / "score_wer" / "ref.trn").write_text("A B\t(s-1-a)\nA A A\t(s-b)\n")
    page = run_report(exp, out=tmp_path / "three")
    assert page.row("exp", "decode_lm")[3].startswith("60.0 ±")
    # Not all of it is decoded.
    truth.write_text("a A B\nb A\nc A\n")
    page = run_report(exp, out=tmp_path / "four", more=more)
    assert "1 utterances of test_other were not decoded: c" in page.words


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
    row = page.row("control", "decode")
    assert [cell.split(" ±")[0] for cell in row[2:]] == ["0.0", "0.0", "33.3", "50.0"]


def test_labels_over_time(runs, tmp_path) -> None:
    page = run_report(runs["cached"], out=tmp_path / "out")
    rows = [
        json.loads(line)
        for file in sorted((runs["cached"] / "pl_samples").iterdir())
        for line in file.read_text().splitlines()
    ]
    assert {file.name for file in (runs["cached"] / "pl_samples").iterdir()} == {
        "1epoch.rank0.jsonl",
        "2epoch.rank0.jsonl",
    }
    assert any(row["made"] < row["step"] for row in rows)  # From the cache.
    assert all(row["weight"] == 1.0 and row["dropped_by"] == "" for row in rows)
    for key in {row["utterance"] for row in rows}:
        assert f"{key}: its labels over time." in page.words
    truths = Path(page_truths(runs["cached"])).read_text().splitlines()
    key, truth = next(t.split(" ", 1) for t in truths if t.split()[0] in page.words)
    assert f"true {truth} {key}: its labels" in page.words


def page_truths(exp: Path) -> str:
    return yaml.safe_load((exp / "config.yaml").read_text())["unlabeled_oracle_text"]


@pytest.mark.slow
def test_what_comes_from_files_is_escaped(runs, data, tmp_path) -> None:
    exp = copy(runs["cached"], tmp_path / "<b>exp&")
    key = EVIL.replace(" ", "")
    row = dict(step=3, made=3, utterance=key, label=EVIL, student=EVIL, weight=0.0)
    row["dropped_by"] = "<i>"
    samples = exp / "pl_samples" / "1epoch.rank0.jsonl"
    samples.write_text(json.dumps(row) + "\n" + json.dumps(row)[:40] + "\n")
    settings = yaml.safe_load((exp / "config.yaml").read_text())
    settings["pl_criterion"] = "<u>criterion"
    (exp / "config.yaml").write_text(yaml.safe_dump(settings))
    alarm = exp / "pl_collapse" / "step3"
    alarm.mkdir(parents=True)
    (alarm / "report.txt").write_text("<h1>alarm\n</pre><h1>\n")
    page = run_report(exp, runs["stock"], out=tmp_path / "out")
    for text in ("<b>exp&", "dropped: <i>", "<u>criterion", "<h1>alarm", EVIL):
        assert text in page.words, text
    assert not {"b", "i", "u"} & {name for name, _ in page.tags}
    assert "1 lines of pl_samples cannot be read" in page.words


def test_before_the_first_epoch_ends(data, tmp_path) -> None:
    exp = tmp_path / "exp"
    exp.mkdir()
    (exp / "train.log").write_text("# python -m espnet_softpl.bin.train\n")
    page = run_report(exp, out=tmp_path / "one")
    assert "config.yaml is missing or not complete" in page.words
    assert "No epoch is finished yet" in page.words
    settings = config(**data.options(), **PL)
    (exp / "config.yaml").write_text(yaml.safe_dump(settings))
    line = "[h] 2026-01-31 12:00:00,000 (trainer:811) INFO: 1epoch:train:1-3batch: a=1"
    (exp / "train.log").write_text(f"# python\n{line}, b=2")
    page = run_report(exp, out=tmp_path / "two")
    assert "The guard's state is not there yet" in page.words
    assert "No labels have been recorded yet." in page.words
    row = page.row("exp", "hard_ctc", "ema")
    assert row[4] == "0 of 2" and row[-1].startswith("running or stopped, last sign")
    assert row[-1].endswith("epoch 1, mini-batch 3")


@pytest.mark.slow
def test_while_files_are_written(runs, tmp_path) -> None:
    exp = copy(runs["cached"], tmp_path / "exp")
    whole = (exp / "checkpoint.pth").read_bytes()
    (exp / "checkpoint.pth").write_bytes(whole[: len(whole) // 2])
    state = exp / "pl_state" / "2epoch.rank0.pth"
    state.write_bytes(state.read_bytes()[:100])
    before = {p: p.read_bytes() for p in exp.rglob("*") if p.is_file()}
    stats, source = read_statistics(exp)
    assert source == "pl_state/previous_checkpoint.pth" and list(stats) == [1]
    page = run_report(exp, out=tmp_path / "out")
    assert page.row("exp", "hard_ctc", "student", "slimipl", "1 of 2", "6")
    assert page.row("pl_frame_entropy mean entropy of a frame (nats)")
    # It only reads.
    assert before == {p: p.read_bytes() for p in exp.rglob("*") if p.is_file()}
    (exp / "pl_state" / "previous_checkpoint.pth").unlink()
    odd = dict(pl_criterion="hard_ctc", pl_schedule_conf=3, encoder_conf="x")
    (exp / "config.yaml").write_text(yaml.safe_dump({**odd, "pl_guard": "panic"}))
    page = run_report(exp, out=tmp_path / "odd")
    assert "The guard's settings are not legal here: pl_guard: unknown" in page.words
    (exp / "config.yaml").write_text("pl_criterion: [hard")
    page = run_report(exp, out=tmp_path / "two")
    assert "No epoch is finished yet" in page.words
    assert "config.yaml is missing or not complete" in page.words


LOG = """# python3 -m espnet2.bin.asr_train --config conf.yaml
[h] 2026-01-31 12:00:00,000 (trainer:811) INFO: 1epoch:train:1-50batch: loss=9.000
[h] 2026-01-31 12:00:01,000 (trainer:394) INFO: 1epoch results: [train] \
iter_time=1.577e-04, loss=8.500, pl_cer=nan, grad_norm=inf, time=1 hour, \
2 minutes and 3.5 seconds, total_count=50, gpu_max_cached_mem_GB=0.000, [valid] \
loss=7.000, cer_ctc=0.500, time=4.16 seconds, total_count=6, [att_plot] time=1 second, \
total_count=0
"""


def test_curves_come_from_the_log_where_there_is_no_checkpoint(tmp_path) -> None:
    lines = LOG.splitlines()
    assert progress_of(lines) == (1, 50)
    found = parse_results(lines)[1]
    assert found["train"]["loss"] == 8.5 and found["train"]["iter_time"] == 1.577e-4
    assert found["train"]["time"].total_seconds() == 3723.5
    assert found["valid"]["cer_ctc"] == 0.5 and found["att_plot"]["total_count"] == 0
    exp = tmp_path / "exp"
    exp.mkdir()
    (exp / "train.log").write_text(LOG + "[h] The training was finished at 1 epochs\n")
    (exp / "config.yaml").write_text("max_epoch: 1\n")
    page = run_report(exp, out=tmp_path / "out")
    assert "the curves are from train.log, where numbers are rounded" in page.words
    row = page.row("exp", "supervised")
    assert row[4:] == ["1 of 1", "50", "1:02:08", "50.0", "–", "finished"]


def test_a_log_says_what_the_checkpoint_says(data, tmp_path, caplog) -> None:
    with caplog.at_level("INFO"):
        options = config(**data.options(), **PL, max_epoch=1, log_level="INFO")
        exp = train(SoftPLTask, options, tmp_path / "exp")
    lines = [f"(x) INFO: {record.getMessage()}" for record in caplog.records]
    logged = parse_results(lines)[1]
    saved, _ = read_statistics(exp)
    for phase in ("train", "valid"):
        for key, value in saved[1][phase].items():
            if key != "time":
                close = pytest.approx(float(value), rel=2e-3, abs=6e-4, nan_ok=True)
                assert logged[phase][key] == close, key


def test_what_is_no_experiment_is_refused(runs, tmp_path, capsys) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    good, out = str(runs["stock"]), ["--out", str(tmp_path / "out")]
    bad = {
        (str(tmp_path / "gone"),): "gone is no directory",
        (str(tmp_path / "empty"),): "is no experiment: it has none of config.yaml",
        (good, good): "is named twice",
        (good, "--ref_text", "dev"): "--ref_text must be SET=FILE, got 'dev'",
        (good, "--ref_text", "dev=gone"): "--ref_text: gone does not exist",
        (good, "--out", str(tmp_path / "file")): "file is no directory",
        (): "the following arguments are required: EXP",
    }
    for words, message in bad.items():
        with pytest.raises(SystemExit) as ended:
            report.main([*out, *words])
        assert ended.value.code == 2, words
        assert message in capsys.readouterr().err, words
    assert not (tmp_path / "out").exists()


def test_names_tell_experiments_apart() -> None:
    paths = [Path("/e/seed1/hard"), Path("/e/seed2/hard")]
    assert names_of(paths) == ["seed1/hard", "seed2/hard"]
    assert names_of([Path("/e/a"), Path("/e/b")]) == ["a", "b"]


def test_words_are_compared_with_the_truth_and_with_before() -> None:
    assert compare("A X C D", "A B C", "A B C D") == [
        Word("A", "right"),
        Word("B", "gone", True),
        Word("X", "wrong", True, "B"),
        Word("C", "right"),
        Word("D", "extra"),
    ]
    assert compare("A", "A B", "A B") == [
        Word("A", "right"),
        Word("B", "missing", True),
    ]
    assert compare("A B", None, None) == [Word("A", "plain"), Word("B", "plain")]
    assert compare("", "A", "") == [Word("A", "missing")]
    assert compare("", None, "") == []


def test_settings_that_differ() -> None:
    one = {"a": 1, "b": {"c": 2, "d": [1]}, "e": {}, "g": 0}
    two = {"a": 1, "b": {"c": 3, "d": [1]}, "f": None}
    assert differing([one, two]) == {
        "b.c": ["2", "3"],
        "g": ["0", None],
    }


def test_rows_are_thinned_evenly() -> None:
    assert thin(range(11), 6) == [0, 2, 4, 6, 8, 10]
    assert thin(range(3), 6) == [0, 1, 2]
    assert thin(range(100), 4) == [0, 33, 66, 99]


def test_every_statistic_has_words() -> None:
    assert {statistic.name for statistic in ALWAYS} <= set(MEANING)


def test_the_choice_of_samples() -> None:
    ids = [f"utterance-{index}" for index in range(100)]
    chosen = choose(ids, 8)
    assert len(chosen) == 8 and chosen == choose(reversed(ids), 8)
    # Fewer utterances: what is still there stays.
    assert set(chosen) - {chosen[0]} <= set(choose(set(ids) - {chosen[0]}, 8))
    assert choose(ids, 0) == [] and len(choose(ids[:3], 8)) == 3
    # Speakers come one after the other in the ids, and all are to be heard.
    assert max(int(key.split("-")[1]) for key in chosen) > 50


def test_records_survive_in_the_middle_of_an_epoch(tmp_path) -> None:
    recorder = SampleRecorder(["a"], str)
    rows = [dict(step=1, utterance="a", label="A")]
    recorder.load_state_dict({"rows": rows})
    assert recorder.state_dict() == {"rows": rows}
    recorder.write(tmp_path, 3, 0)
    file = tmp_path / "pl_samples" / "3epoch.rank0.jsonl"
    assert [json.loads(line) for line in file.read_text().splitlines()] == rows
    assert recorder.state_dict() == {"rows": []}
    recorder.write(tmp_path, 3, 0)  # Trained again, with nothing to say.
    assert not file.exists()


def test_samples_can_be_switched_off(data, tmp_path) -> None:
    options = config(**data.options(), **PL, max_epoch=1, pl_samples=0)
    exp = train(SoftPLTask, options, tmp_path / "exp")
    assert not (exp / "pl_samples").exists()


def test_tensorboard_gets_the_statistics(data, tmp_path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    options = config(**data.options(), **PL, use_tensorboard=True, log_interval=4)
    exp = train(SoftPLTask, options, tmp_path / "exp")
    events = EventAccumulator(str(exp / "tensorboard" / "train"))
    events.Reload()
    assert {statistic.name for statistic in ALWAYS} <= set(events.Tags()["scalars"])
    saved = load(exp / "checkpoint.pth")["reporter"]["stats"][2]["train"]["pl_cer"]
    assert events.Scalars("pl_cer")[-1].value == pytest.approx(saved)


def test_weights_and_biases_gets_the_statistics(data, tmp_path, monkeypatch) -> None:
    """A stand-in for the module records what ESPnet's reporter logs."""
    logged: list[dict] = []
    wandb = types.ModuleType("wandb")
    wandb.login = wandb.finish = lambda *args, **kwargs: None
    wandb.init = wandb.login
    wandb.config, wandb.run = types.SimpleNamespace(update=print), None
    wandb.errors = types.SimpleNamespace(UsageError=RuntimeError)
    wandb.log = logged.append
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr("espnet2.tasks.abs_task.wandb", wandb)
    options = config(**data.options(), **PL, use_wandb=True, log_interval=4)
    exp = train(SoftPLTask, options, tmp_path / "exp")
    epochs = [entry for entry in logged if "epoch" in entry]
    steps = [entry for entry in logged if "iteration" in entry]
    assert len(epochs) == 2 and len(steps) >= 2
    for name in (statistic.name for statistic in ALWAYS):
        assert f"train/train_{name}_epoch" in epochs[-1], name
        assert f"metrics/{name}" in steps[-1], name
    saved = load(exp / "checkpoint.pth")["reporter"]["stats"][2]["train"]["pl_cer"]
    assert epochs[-1]["train/train_pl_cer_epoch"] == saved


@pytest.mark.slow
def test_the_documented_commands(runs, tmp_path, monkeypatch, capsys) -> None:
    text = (ROOT / "docs" / "report.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.S)
    names = ("warmup", "hard_ctc", "soft_ce")
    for name, exp in zip(names, runs.values(), strict=True):
        copy(exp, tmp_path / "exp" / name)
    truth = tmp_path / "data" / "test_other" / "text"
    truth.parent.mkdir(parents=True)
    truth.write_text("a A B\n")
    monkeypatch.chdir(tmp_path)
    assert len(blocks) == 2
    for block in blocks:
        words = shlex.split(block)
        assert words[:3] == ["python", "-m", "espnet_softpl.bin.report"]
        assert report.main(words[3:]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == "report/report.html"
        check_page(Path("report/report.html"))
