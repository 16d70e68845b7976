"""The configurations of published algorithms: legal, comparable, as their heads say."""

from __future__ import annotations

import argparse
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask

from espnet_softpl import criteria
from espnet_softpl.cache.plan import CachePlan
from espnet_softpl.commands.token_lm import witten_bell, write_arpa
from espnet_softpl.training import checks
from espnet_softpl.training.config import PLConfig
from espnet_softpl.training.task import SoftPLTask
from tests import ROOT
from tests.support.espnet_runs import Data, config, load, make_data, train
from tests.support.recipe import joined, read_config

CONF = ROOT / "egs2/librispeech_softpl/conf"
PRESETS = (
    "from_the_start",
    "kaizen",
    "mpl",
    "noisy_student",
    "slimipl_ll10",
    "slimipl_ls100",
    "topipl",
)
# Labels and losses that are settings of a criterion, or a shaping with one.
VARIANTS = ("lm_posterior", "hard_lm_posterior", "soft_rescore", "hard_rescore")
VARIANTS += ("network_occupancy_ce", "prior_ctc", "votes")
FAST = ("from_the_start", "slimipl_ls100")  # One without and one with a warm-up.
over_presets = pytest.mark.parametrize("name", PRESETS)


def place(name: str) -> Path:
    return CONF / "tuning" / f"train_pl_{name}.yaml"


def read(name: str) -> dict[str, Any]:
    return read_config(place(name))


def head(name: str) -> str:
    """Return the opening comment as one line."""
    text = place(name).read_text(encoding="utf-8").partition("\n\n")[0]
    lines = text.splitlines()
    assert all(line.startswith("#") for line in lines)
    return " ".join(" ".join(lines).replace("#", " ").split())


def parse(name: str) -> argparse.Namespace:
    """Read a configuration with ESPnet's parser, as a training does."""
    with tempfile.TemporaryDirectory() as directory:
        whole = str(joined(place(name), Path(directory)))
        return SoftPLTask.get_parser().parse_args(["--config", whole])


def stock_part(conf: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in conf.items() if not key.startswith("pl_")}


def test_every_configuration_is_a_criterion_or_an_algorithm() -> None:
    names = {path.stem.removeprefix("train_pl_") for path in CONF.glob("tuning/*")}
    assert names == {*criteria.available(), *PRESETS, *VARIANTS}


@over_presets
def test_the_head_names_the_source_and_what_was_changed(name: str) -> None:
    text = head(name)
    assert re.search(r"Source: https://arxiv\.org/abs/\d{4}\.\d{5}\b", text)
    assert "published -> here: why" in text
    assert text.count(" -> ") >= 6
    assert re.search(r"\bno LM\b|\bwithout LM\b", text)
    assert "the warm-up, stage 8" in text or name == "from_the_start"


@over_presets
def test_the_rest_is_that_of_hard_ctc_but_for_what_is_said(name: str) -> None:
    ours, reference = stock_part(read(name)), stock_part(read("hard_ctc"))
    keys = {*ours, *reference}
    differing = {key for key in keys if ours.get(key) != reference.get(key)}
    text = head(name)
    (said,) = re.findall(
        r"Model, front end and optimizer: those of train_pl_hard_ctc\.yaml"
        r"(?:, except ([\w, ]+))?\.$",
        text,
    )
    assert differing == {word for word in re.findall(r"\w+", said) if word != "and"}
    assert "init_param" not in reference


@over_presets
def test_it_is_legal(name: str) -> None:
    args = parse(name)
    checks.check_options(args)
    assert args.pl_criterion == "hard_ctc"
    conf = read(name)
    used = {key for key in conf if key.startswith("pl_")}
    assert all(getattr(args, key) == conf[key] for key in used)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_legal_beside_a_bigram(name: str, tmp_path: Path) -> None:
    args = parse(name)
    args.token_list = str(tmp_path / "tokens.txt")
    Path(args.token_list).write_text("<blank>\n<unk>\nA\n<sos/eos>\n")
    counted = witten_bell([["A"]], ["A"])
    write_arpa(counted, tmp_path / "bigram.arpa")
    config = checks.check_options(args)
    lms = [getattr(part.at(0), "lm", None) for part in config.shaping]
    assert [lm.unigram.numel() for lm in lms if lm is not None] in ([4], [])


def test_the_guard_stops_all_runs_of_full_size() -> None:
    places = sorted((CONF / "models").rglob("train_pl_*.yaml"))
    assert len(places) >= 8
    assert {read_config(place)["pl_guard"] for place in places} == {"stop"}


def test_an_illegal_one_is_found() -> None:
    args = parse("from_the_start")
    args.num_workers = 1
    args.pl_cache_conf = {**args.pl_cache_conf, "lag": 2}
    with pytest.raises(ValueError, match="lag: must be at least 3 with num_workers: 1"):
        checks.check_options(args)
    args = parse("topipl")
    args.keep_nbest_models = 2
    with pytest.raises(ValueError, match="keep_nbest_models: 2 epochs are kept"):
        checks.check_options(args)


def test_from_the_start_has_no_base_model_and_the_updates_of_both_phases() -> None:
    args = parse("from_the_start")
    assert args.init_param == []
    ours, both = read("from_the_start"), read("hard_ctc")["max_epoch"]
    warmup = yaml.safe_load((CONF / "train_warmup.yaml").read_text())
    both += warmup["max_epoch"]
    assert (ours["max_epoch"], both) == (36, 36)
    for key in ("optim_conf", "scheduler_conf", "num_iters_per_epoch"):
        assert ours[key] == warmup[key], key
    updates = both * ours["num_iters_per_epoch"]
    ramp = PLConfig.from_args(args).shaping[0]
    at = [ramp.at(step).temperature for step in (0, 900, 1350, updates)]
    assert at == pytest.approx([1.0, 1.0, 0.55, 0.1])
    assert f"the last 900 of {updates} updates" in head("from_the_start")


def unlabeled_updates(args: argparse.Namespace, filling: int) -> int:
    """Count the unlabeled mini-batches that a run trains on."""
    schedule = PLConfig.from_args(args).schedule
    steps = args.max_epoch * args.num_iters_per_epoch
    turns = schedule.turn_of(0, steps, filling)
    return schedule.unlabeled_before(0, turns) - filling


def page() -> str:
    """Return the pages of algorithms and presets, their lines joined."""
    pages = ("docs/algorithms.md", "docs/dev/presets.md")
    return " ".join(" ".join((ROOT / p).read_text("utf-8") for p in pages).split())


@pytest.mark.parametrize("name", ["slimipl_ls100", "slimipl_ll10"])
def test_the_figures_of_the_caches(name: str) -> None:
    args, text = parse(name), head(name)
    conf = args.pl_cache_conf
    assert f"mini-batches -> {conf['size']}: so that" in text
    life = conf["size"] / conf["probability"]
    assert f"C / p = {life:.0f} unlabeled updates" in text
    (about,) = re.findall(r"of about (\d+) in the run", text)
    updates = unlabeled_updates(args, conf["size"])
    assert updates == pytest.approx(int(about), rel=0.01)
    assert life < updates
    schedule = args.pl_schedule_conf
    ratio = f"{schedule['labeled_steps']} : {schedule['unlabeled_steps']}"
    assert f"N_L : N_U {ratio}," in text
    if name == "slimipl_ls100":
        seen = conf["size"] + conf["probability"] * updates
        assert f"`slimipl_ls100` about {seen:.0f}, not all" in page()
        age = life * (1 + 1 / schedule["unlabeled_steps"])
        assert f"{age:.0f} for `slimipl_ls100`" in page()


def test_uses_and_age_of_labels_are_those_of_the_theory() -> None:
    """1/p uses, and an age of C/p unlabeled updates, once the filling is gone."""
    size, probability, last = 10, 0.2, 20000
    born, uses = {}, {}
    ages, finished = [], []
    plan = CachePlan(size, 3, probability)
    for draw, loads in zip(range(last), plan.draws(0), strict=False):
        for part in reversed(loads):  # What is replaced is trained on a last time.
            if not part.insert:
                uses[part.slot] += 1
                ages.append(draw - born[part.slot])
                continue
            if part.slot in uses:
                finished.append(uses[part.slot])
            born[part.slot], uses[part.slot] = draw, 0
    assert sum(finished) / len(finished) == pytest.approx(1 / probability, rel=0.05)
    late = ages[len(ages) // 4 :]
    assert sum(late) / len(late) == pytest.approx(size / probability, rel=0.05)


def test_the_figures_of_the_teachers() -> None:
    mpl = PLConfig.from_args(parse("mpl")).teacher
    assert mpl.decay**50 == pytest.approx(0.5)
    assert f"(decay {mpl.decay:.3f})" in head("mpl")
    kaizen = PLConfig.from_args(parse("kaizen")).teacher
    half = kaizen.every_steps * math.log(0.5) / math.log(kaizen.decay)
    assert f"halves in {half:.0f} updates" in head("kaizen")
    hard = PLConfig.from_args(parse("hard_ctc")).teacher
    plain = math.log(0.5) / math.log(hard.decay)
    assert f"in 50, {half:.0f} and {plain:.0f} updates" in page()
    conf = read("noisy_student")
    steps = conf["max_epoch"] * conf["num_iters_per_epoch"]
    assert steps // PLConfig.from_args(parse("noisy_student")).teacher.every_steps == 2
    topipl = PLConfig.from_args(parse("topipl")).teacher
    assert list(topipl.criterion) in conf["best_model_criterion"]


def test_the_figures_of_spec_augment() -> None:
    conf, text = read("slimipl_ll10"), head("slimipl_ll10")
    ours = conf["specaug_conf"]
    bins, mels = ours["freq_mask_width_range"][1], conf["frontend_conf"]["n_mels"]
    assert bins / mels == 30 / 80
    assert f"-> {ours['num_freq_mask']} x {bins} of {mels}" in text
    assert ours["time_mask_width_ratio_range"] == [0.0, 0.1]
    assert f"-> {ours['num_time_mask']}, each at most 0.1" in text
    masked = 1 - 0.95**20  # Of 20 masks with a mean of 0.05, put at random.
    assert "where 20 would mask two thirds" in text
    assert masked == pytest.approx(2 / 3, abs=0.05)


@over_presets
def test_the_page_of_algorithms_has_its_row(name: str) -> None:
    text = (ROOT / "docs/algorithms.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| .*train_pl_{name}\.yaml\) \|$", text, flags=re.MULTILINE)
    conf = read(name)
    sources = re.findall(r"https://arxiv\.org/abs/\S+\.\d{5}", head(name))
    assert sources[0] in row
    schedule = conf["pl_schedule_conf"]
    assert f"| {schedule['labeled_steps']} : {schedule['unlabeled_steps']}" in row
    names = [conf["pl_teacher"], *conf["pl_filter"]]
    names += [conf["pl_cache"]] if "pl_cache" in conf else []
    assert all(f"`{part}`" in row for part in names)
    assert ("pl_cache" in conf) or "| none |" in row


# Training


def small(name: str) -> dict[str, Any]:
    """Return a preset's `pl_*` keys, its times and sizes fit for eight updates."""
    conf = {key: value for key, value in read(name).items() if key.startswith("pl_")}
    labels = conf.get("pl_cache_conf", {})
    if isinstance(labels.get("size"), int):
        conf["pl_cache_conf"] = {**labels, "size": 2}
    teacher = conf.get("pl_teacher_conf", {})
    for key, value in {"steps": 3, "every_steps": 2}.items():
        if key in teacher:
            conf["pl_teacher_conf"] = {**teacher, key: value}
    return conf


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def warmup(data: Data, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Train a base model until it says something; return options to start from it."""
    exp = tmp_path_factory.mktemp("warmup") / "exp"
    more = dict(max_epoch=1, num_iters_per_epoch=120, optim_conf=dict(lr=0.01))
    train(ASRTask, config(**data.options(unlabeled=False), **more), exp)
    return ["--init_param", str(exp / "latest.pth")]


def check_teacher(name: str, state: dict[str, Any]) -> None:
    """Check what has become of the teacher after eight updates, four an epoch."""
    assert state["kind"] == read(name)["pl_teacher"]
    assert ("model" in state) == (state["kind"] != "student")
    every = {"mpl": 1, "kaizen": 2, "noisy_student": 3}.get(name)
    if every is not None:
        # It is born at the first unlabeled mini-batch, and counts from then on.
        assert 5 <= state["steps_seen"] <= 8
        assert state["updates"] == state["steps_seen"] // every
    if name == "topipl":
        assert state["epochs"] == [1]


def check_cache(name: str, state: dict[str, Any] | None) -> None:
    """Check what the cache has done in eight updates."""
    conf = read(name).get("pl_cache_conf")
    assert (state is None) == (conf is None)
    if conf is None:
        return
    unlabeled_batches = 5  # Of one pass over the tiny data.
    slots = unlabeled_batches if conf["size"] == "all" else 2
    assert len(state["store"]["slots"]) == slots
    assert state["counts"]["made"] >= slots
    assert state["settings"]["pl_cache"].lower() == read(name)["pl_cache"].replace(
        "_", ""
    )
    decided = state["decisions"].numel()
    assert (decided > 0) == (name == "from_the_start")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in PRESETS],
)
def test_it_trains(name: str, data: Data, tmp_path: Path, request: Any) -> None:
    exp, pl = tmp_path / "exp", small(name)
    start = [] if name == "from_the_start" else request.getfixturevalue("warmup")
    train(SoftPLTask, config(**data.options(), **pl), exp, *start)
    state = load(exp / "pl_state" / "2epoch.rank0.pth")
    check_teacher(name, state["teacher"])
    check_cache(name, state["cache"])
    stats = load(exp / "checkpoint.pth")["reporter"]["stats"]
    epochs = [stats[epoch]["train"] for epoch in (1, 2)]
    keys = ["loss", "loss_labeled", "loss_pl", "pl_wer", "pl_kept_hours"]
    keys += [f"pl_dropped_{part}" for part in pl["pl_filter"]]
    keys += ["pl_uses", "pl_turnover"] if "pl_cache" in pl else []
    for key in keys:
        # A ratio of 1 : 10 leaves epochs of four without labeled mini-batches.
        found = [epoch[key] for epoch in epochs if key in epoch]
        assert any(map(math.isfinite, found)), key
    assert epochs[1]["pl_kept"] > 0.0, "nothing was learned from unlabeled data"
    assert (epochs[1]["pl_age"] > 0.0) == ("pl_cache" in pl)
    weights = load(exp / "latest.pth")
    assert all(torch.isfinite(value).all() for value in weights.values())
