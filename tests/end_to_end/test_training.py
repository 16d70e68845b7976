"""The whole engine in ESPnet's own trainer, on tiny data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from espnet2.tasks.asr import ASRTask

from espnet_softpl import criteria
from espnet_softpl.bin import token_lm
from espnet_softpl.criteria import PLCriterion
from espnet_softpl.monitors.statistics import ALWAYS
from espnet_softpl.training import checks
from espnet_softpl.training.task import SoftPLTask
from tests import ROOT
from tests.support.espnet_runs import (
    HYBRID,
    PL,
    Data,
    config,
    load,
    load_snapshot,
    make_data,
    same_tensors,
    train,
)
from tests.support.recipe import joined, read_config

SEED = dict(num_iters_per_epoch=80, optim_conf=dict(lr=0.01))


class BlankPrior(PLCriterion):
    """A user's own criterion."""

    def forward(self, log_probs, lengths, pseudo_label):
        """Ask for the blank at the first frame."""
        return -log_probs[:, 0, 0]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def seed_model(data, tmp_path_factory) -> Path:
    """A seed trained by stock ESPnet until it says something about most audio."""
    out = tmp_path_factory.mktemp("seed") / "exp"
    options = config(**data.options(unlabeled=False), **SEED)
    return train(ASRTask, options, out)


@pytest.fixture(scope="module")
def hard_run(data, seed_model, tmp_path_factory) -> Path:
    """Hard pseudo-labeling from the stock seed."""
    out = tmp_path_factory.mktemp("hard") / "exp"
    options = config(**data.options(), **PL, max_epoch=3)
    return train(SoftPLTask, options, out, "--init_param", best(seed_model))


def best(exp: Path) -> str:
    return str(exp / "valid.cer_ctc.ave.pth")


def reported(exp: Path, key: str, epoch: int = 1) -> float:
    return load(exp / "checkpoint.pth")["reporter"]["stats"][epoch]["train"][key]


def test_checkpoints_are_stock_checkpoints(hard_run, seed_model) -> None:
    stock = load(seed_model / "latest.pth")
    for name in ("latest.pth", "valid.cer_ctc.ave.pth", "teacher.pth"):
        weights = load(hard_run / name)
        assert list(weights) == list(stock)
        assert [w.shape for w in weights.values()] == [w.shape for w in stock.values()]
    written = yaml.safe_load((hard_run / "config.yaml").read_text())
    assert written["model"] == "espnet" and written["model_conf"] == {"ctc_weight": 1.0}


def test_teacher_is_between_the_seed_and_the_student(hard_run, seed_model) -> None:
    key = "encoder.encoders.0.feed_forward.w_1.weight"
    seed, student, teacher = (
        load(path)[key]
        for path in (
            Path(best(seed_model)),
            hard_run / "latest.pth",
            hard_run / "teacher.pth",
        )
    )
    away = (student - seed).norm()
    assert 0 < (teacher - seed).norm() < away
    assert 0 < (teacher - student).norm() < away


def test_every_statistic_is_reported(hard_run) -> None:
    stats = load(hard_run / "checkpoint.pth")["reporter"]["stats"][1]["train"]
    for key in (
        "loss",
        "loss_labeled",
        "loss_pl",
        "loss_ctc",
        *(one.name for one in ALWAYS),
    ):
        assert np.isfinite(stats[key]), key


DECODE = """
import sys
sys.modules["espnet_softpl"] = None  # importing it fails
from espnet2.bin.asr_inference import main
main(sys.argv[1:])
assert not any(m.startswith("espnet_softpl.") for m in sys.modules)
"""


@pytest.mark.slow
def test_stock_espnet_decodes_it_without_this_package(hard_run, data, tmp_path) -> None:
    command = [
        sys.executable,
        "-c",
        DECODE,
        "--asr_train_config",
        str(hard_run / "config.yaml"),
        "--asr_model_file",
        best(hard_run),
        "--data_path_and_name_and_type",
        f"{data.path('dev', 'wav.scp')},speech,sound",
        "--output_dir",
        str(tmp_path / "decode"),
        "--ctc_weight",
        "1.0",
        "--beam_size",
        "1",
        "--ngpu",
        "0",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    hypotheses = (tmp_path / "decode" / "1best_recog" / "text").read_text()
    assert len(hypotheses.splitlines()) == 4


SLIMIPL = dict(pl_cache="slimipl", pl_cache_conf={"size": 2, "probability": 0.5})
RETENTION = dict(retention=0.5, every_steps=2, warmup=True, buffers="average")


def compare_runs(one: Path, other: Path, epochs: int) -> None:
    """Assert that two runs left the same behind, but for what measures time."""
    mine, theirs = (load(exp / "checkpoint.pth") for exp in (one, other))
    assert same_tensors(mine["model"], theirs["model"])
    for epoch in range(1, epochs + 1):
        for phase in ("train", "valid"):
            stats = [s["reporter"]["stats"][epoch][phase] for s in (mine, theirs)]
            assert stats[0].keys() == stats[1].keys()
            for key in stats[0]:
                if "time" not in key:
                    np.testing.assert_array_equal(*(s[key] for s in stats), err_msg=key)
    states = [load_snapshot(exp, epochs) for exp in (one, other)]
    assert repr(states[0]) == repr(states[1])
    samples = [
        {path.name: path.read_text() for path in exp.glob("pl_samples/*")}
        for exp in (one, other)
    ]
    assert samples[0] and samples[0] == samples[1]
    teachers = [exp / "teacher.pth" for exp in (one, other)]
    assert teachers[0].exists() == teachers[1].exists()
    if teachers[0].exists():
        assert same_tensors(*map(load, teachers))


LABEL_CHANGE = dict(
    pl_cache="label_change",
    pl_cache_conf={"size": 2, "lag": 3},
    num_workers=1,
    pl_shaping=["sample"],
)
RESUMED = {
    "ema": ("ema", {"decay": 0.9}, {}),
    "retention": ("ema", RETENTION, {"accum_grad": 2, "num_iters_per_epoch": 5}),
    "frozen": ("frozen", {}, {}),
    "fused": ("ema", {"decay": 0.9}, {"optim": "adamw", "optim_conf": {"fused": True}}),
    "slimipl": ("student", {}, SLIMIPL),
    "delayed": ("delayed", {"steps": 4}, {}),
    "topn": ("topn", {"n": 2}, {}),
    "label_change": ("student", {}, LABEL_CHANGE),
    "blocks": ("ema", {"decay": 0.9}, {**SLIMIPL, "form": "block"}),
}


def cases(table: dict[str, tuple], fast: str) -> list:
    """Make a case of each entry; all but one are slow."""
    return [
        pytest.param(*row, id=name, marks=[] if name == fast else pytest.mark.slow)
        for name, row in table.items()
    ]


@pytest.mark.parametrize("teacher, conf, more", cases(RESUMED, fast="slimipl"))
def test_resume_is_exact(data, seed_model, tmp_path, teacher, conf, more) -> None:
    more = dict(more)
    pl = dict(
        PL,
        pl_teacher=teacher,
        pl_teacher_conf=conf,
        pl_schedule_conf=dict(
            form=more.pop("form", "interleaved"),
            labeled_steps=2,
            unlabeled_steps=1,
            start_step=1,
            ramp_steps=6,
        ),
    )
    options = config(
        **data.options(), **{**pl, **more}, max_epoch=4, init_param=[best(seed_model)]
    )
    whole = train(SoftPLTask, options, tmp_path / "whole")
    # One epoch would be refused: with a cache nothing unlabeled is learned in it.
    parts = train(SoftPLTask, options, tmp_path / "parts", "--max_epoch", "2")
    train(SoftPLTask, options, parts, "--max_epoch", "3", "--resume", "true")
    train(SoftPLTask, options, parts, "--resume", "true")
    compare_runs(whole, parts, epochs=4)


def test_resume_without_the_side_state_is_refused(data, tmp_path, capsys) -> None:
    options = config(**data.options(), **PL, max_epoch=1)
    exp = train(SoftPLTask, options, tmp_path / "exp")
    state = exp / "pl_state" / "1epoch.rank0.pth"
    torn = load(state)
    for change in ({"epoch": 7}, {"world_size": 2}, {"version": 0}):
        torch.save({**torn, **change}, state)
        with pytest.raises(SystemExit):
            train(SoftPLTask, options, exp, "--max_epoch", "2", "--resume", "true")
        error = capsys.readouterr().err
        assert f"has {list(change)[0]} " in error and "start again" in error.lower()
    state.unlink()
    with pytest.raises(SystemExit):
        train(SoftPLTask, options, exp, "--max_epoch", "2", "--resume", "true")
    assert "is missing, so the teacher of epoch 1" in capsys.readouterr().err


def test_oracle_transcripts_cannot_reach_a_loss(data, hard_run, seed_model, tmp_path):
    """Contract 10: other transcripts, or none, give the same weights bit for bit."""
    lines = Path(data.path("unlabeled", "text.oracle")).read_text().splitlines()
    wrong = tmp_path / "wrong"
    wrong.write_text("".join(f"{line.split()[0]} CCCCCCCCC\n" for line in lines))
    weights = load(hard_run / "latest.pth")
    samples = {path.name: path.read_text() for path in hard_run.glob("pl_samples/*")}
    for oracle in (str(wrong), None):
        options = config(**data.options(), **PL, max_epoch=3)
        options["unlabeled_oracle_text"] = oracle
        exp = train(
            SoftPLTask,
            options,
            tmp_path / f"exp_{oracle is None}",
            "--init_param",
            best(seed_model),
        )
        assert same_tensors(load(exp / "latest.pth"), weights)
        for name, text in samples.items():
            assert (exp / "pl_samples" / name).read_text() == text
        error = reported(exp, "pl_cer")
        assert (
            np.isnan(error) if oracle is None else error != reported(hard_run, "pl_cer")
        )


@pytest.mark.parametrize(
    "criterion, conf",
    [
        ("soft_ce", {"temperature": 0.5}),
        ("sampled_ctc", {"num_samples": {"from": 1, "to": 3, "steps": 5}}),
        (f"{__name__}:BlankPrior", {}),
    ],
)
def test_a_criterion_is_one_line_of_yaml(data, seed_model, tmp_path, criterion, conf):
    options = config(**data.options(), **PL)
    options.update(pl_criterion=criterion, pl_criterion_conf=conf)
    exp = train(SoftPLTask, options, tmp_path / "exp", "--init_param", best(seed_model))
    assert np.isfinite(reported(exp, "loss_pl"))


@pytest.mark.slow
@pytest.mark.parametrize("criterion, trains", [("hard_ctc", True), ("soft_ce", False)])
def test_hybrid_models(data, tmp_path, criterion, trains) -> None:
    """Hard labels train the attention decoder too, soft ones only the CTC branch."""
    options = config(**data.options(), **dict(PL, pl_criterion=criterion), **HYBRID)
    options["pl_schedule_conf"] = dict(PL["pl_schedule_conf"], labeled_steps=0)
    # An untrained teacher may say nothing; such labels would be left out.
    options["pl_filter_conf"] = dict(min_tokens=0)
    exp = train(SoftPLTask, options, tmp_path / "exp")
    first, last = load(exp / "1epoch.pth"), load(exp / "2epoch.pth")
    moved = {
        key.split(".")[0]
        for key in first
        if "weight" in key and not torch.equal(first[key], last[key])
    }
    assert ("decoder" in moved) == trains
    assert {"encoder", "ctc"} <= moved
    assert yaml.safe_load((exp / "config.yaml").read_text())["unused_parameters"]


@pytest.mark.slow
def test_without_pl_it_is_the_stock_task(data, seed_model, tmp_path) -> None:
    options = config(**data.options(unlabeled=False), **SEED)
    exp = train(SoftPLTask, options, tmp_path / "exp")
    assert same_tensors(load(exp / "latest.pth"), load(seed_model / "latest.pth"))


def change(data: Data, base: Path, exp: Path, **schedule) -> torch.Tensor:
    """Return what one update of SGD, of a rate of 1, adds to the weights."""
    conf = {"labeled_steps": 1, "unlabeled_steps": 2, **schedule}
    options = config(
        **{**data.options(), **PL, "pl_schedule_conf": conf, "optim": "sgd"},
        optim_conf=dict(lr=1.0),
        grad_clip=0.1,
        max_epoch=1,
        num_iters_per_epoch=3,
        init_param=[best(base)],
    )
    weights = load(train(SoftPLTask, options, exp) / "latest.pth")
    started = load(Path(best(base)))
    names = [key for key in started if "running_" not in key and "num_batch" not in key]
    return torch.cat([(weights[k] - started[k]).flatten().double() for k in names])


def test_weight_acts_though_every_update_is_clipped(data, seed_model, tmp_path) -> None:
    """Labeled mean + weight * unlabeled mean: of three weights one is redundant."""
    changes = {
        weight: change(data, seed_model, tmp_path / str(weight), weight=weight)
        for weight in (1e-6, 1.0, 4.0)
    }
    for vector in changes.values():
        assert vector.norm() == pytest.approx(0.1, rel=1e-3)  # Clipped.
    none, one, four = changes.values()
    # four is in the plane of the two others: its gradient is none + 4 (one' - none).
    basis = torch.stack([none, one], dim=1)
    solution = torch.linalg.lstsq(basis, four).solution
    assert (basis @ solution - four).norm() < 1e-3 * four.norm()
    # It is turned further than one, in the same sense.
    angles = [torch.dot(none, v) / none.norm() / v.norm() for v in (one, four)]
    assert 0.99 > angles[0] > angles[1] + 0.01


def test_weight_zero_leaves_nothing_of_the_unlabeled_loss(
    data, tmp_path, monkeypatch, caplog
) -> None:
    # It is refused, for a run in which nothing is learned.
    monkeypatch.setattr(checks, "check_schedule", lambda *_: None)
    runs = []
    for name, criterion in (("one", "hard_ctc"), ("two", "soft_ce")):
        options = config(**data.options(), **dict(PL, pl_criterion=criterion))
        options["pl_schedule_conf"] = dict(PL["pl_schedule_conf"], weight=0.0)
        # Batch norm sees the unlabeled audio all the same; gradients do not.
        exp = train(SoftPLTask, options, tmp_path / name)
        runs.append(load(exp / "latest.pth"))
    assert same_tensors(*runs)
    words = "no unlabeled mini-batch was learned from in "
    assert f"{words}epoch 1: 2 mini-batches, 2 mini-batches of weight 0" in caplog.text
    assert f"{words}epoch 2: 2 mini-batches, 2 mini-batches of weight 0" in caplog.text
    assert f"{words}the whole run: 4 mini-batches" in caplog.text


@pytest.mark.parametrize("guard", ["stop", "warn"])
def test_a_run_that_learns_nothing_ends_as_its_guard_says(
    data, tmp_path, caplog, capsys, guard
) -> None:
    options = config(**data.options(), **PL, pl_guard=guard, pl_filter=["tokens"])
    options["pl_filter_conf"] = {"min_tokens": 1000}
    words = "no unlabeled mini-batch was learned from in the whole run: 4 mini-batches"
    exp = tmp_path / "exp"
    for more in ((), ("--resume", "true")):  # Resumed, there is nothing left to do.
        status = 0
        try:
            train(SoftPLTask, options, exp, *more)
        except SystemExit as end:
            status = end.code
        assert status == (3 if guard == "stop" else 0)
        error = capsys.readouterr().err if status else caplog.text
        assert f"{words}, 16 utterances dropped by tokens" in error
        assert (exp / "teacher.pth").exists() and (exp / "2epoch.pth").exists()
        caplog.clear()


def test_unlabeled_files_that_cannot_be_read(data, tmp_path, caplog, capsys) -> None:
    lines = Path(data.path("unlabeled", "wav.scp")).read_text()
    (tmp_path / "torn.wav").write_bytes(b"RIFF")
    scp = tmp_path / "wav.scp"
    scp.write_text(f"{lines}torn {tmp_path / 'torn.wav'}\n")
    options = config(**data.options(), **PL, pl_max_bad_share=0.1)
    options["unlabeled_data_path_and_name_and_type"] = [[str(scp), "speech", "sound"]]
    with caplog.at_level("WARNING"):
        exp = train(SoftPLTask, options, tmp_path / "exp")
    assert "1 unlabeled utterances are left out" in caplog.text
    assert "torn.wav" in caplog.text
    shapes = (exp / "unlabeled_shape").read_text().splitlines()
    assert len(shapes) == 20 and not any(line.startswith("torn") for line in shapes)
    options["pl_max_bad_share"] = 0.01
    with pytest.raises(SystemExit):
        train(SoftPLTask, options, tmp_path / "refused")
    error = capsys.readouterr().err
    assert "1 of 21 utterances" in error and "cannot be used" in error


BAD_LABELS: dict[str, tuple[dict, str]] = {
    "two views": (
        {"pl_criterion": "consistency", "specaug_conf": {}},
        "apply_time_warp",
    ),
    "frames": (
        {"pl_shaping": ["token_confidence"], "specaug_conf": {}},
        "must be false with pl_shaping",
    ),
    "weights": (
        {
            "pl_criterion": f"{__name__}:BlankPrior",
            "pl_shaping": ["frame_confidence"],
        },
        "weighs frames, which pl_criterion",
    ),
    "prior": (
        {
            "pl_regularizer": ["prior_kl"],
            "pl_schedule_conf": {"form": "interleaved", "labeled_steps": 0},
        },
        "needs labeled batches",
    ),
    "regularizer": ({"pl_regularizer": ["prior"]}, "Did you mean 'prior_kl'"),
    "shaping": ({"pl_shaping": "sharp"}, "Did you mean 'sharpen'"),
    "of nobody": ({"pl_shaping_conf": {"power": 1.0}}, "'power' is not among"),
    "guard": ({"pl_guard": "panic"}, "Allowed: back_off, stop, warn, none"),
    "limit": (
        {"pl_guard_conf": {"limits": {"pl_blank": {"above": 1}}}},
        "pl_blank_share",
    ),
    "ramp": (
        {
            "pl_criterion": "soft_ce",
            "pl_criterion_conf": {"temperature": {"from": 1.0, "to": 0.0, "steps": 9}},
        },
        "temperature must be a finite number > 0",
    ),
}


BAD_TEACHERS = {
    "no epoch length": (
        {"pl_teacher_conf": {"retention": 0.5}, "num_iters_per_epoch": None},
        "pl_teacher_conf.retention: is a share per epoch",
    ),
    "epochs not kept": (
        {"pl_teacher": "topn", "pl_teacher_conf": {"n": 11}},
        "keep_nbest_models: 10 epochs are kept, the teacher averages 11",
    ),
    "other criterion": (
        {"pl_teacher": "topn", "pl_teacher_conf": {"criterion": ["valid", "x", "min"]}},
        "must be among best_model_criterion",
    ),
    "cache": ({"pl_cache": "slimipl", "pl_cache_conf": {"p": 1}}, "unknown key 'p'"),
    "lag": (
        {
            "pl_cache": "label_change",
            "pl_cache_conf": {"lag": 4},
            "num_workers": 2,
        },
        "pl_cache_conf.lag: must be at least 5 with num_workers: 2",
    ),
    "filters": (
        {"pl_filter": ["tokens", "speed"]},
        "pl_filter: unknown filter 'speed'",
    ),
}


def bad_options(data: Data, tmp_path: Path) -> dict[str, tuple[dict, str]]:
    """List bad configurations, and what the refusal must say."""
    (tmp_path / "empty").write_text("")
    (tmp_path / "other.txt").write_text("<blank>\nX\n<sos/eos>\n")
    (tmp_path / "late.txt").write_text("A\n<blank>\n<sos/eos>\n")
    key = "unlabeled_data_path_and_name_and_type"

    def unlabeled(path: str, *more: list[str]) -> dict:
        return {key: [[path, "speech", "sound"], *more]}

    return {
        "criterion": ({"pl_criterion": "hard"}, "unknown criterion 'hard'"),
        "setting": ({"pl_criterion_conf": {"tau": 1}}, "pl_criterion_conf: unknown"),
        "decay": ({"pl_teacher_conf": {"decay": 2.0}}, "pl_teacher_conf: decay"),
        "teacher": ({"pl_teacher": "mean"}, "Allowed: delayed, ema, frozen, student"),
        **BAD_TEACHERS,
        "schedule": ({"pl_schedule_conf": {"unlabeled_steps": 0}}, "unlabeled_steps"),
        "ratio": ({"pl_schedule_conf": {"ratio": 3}}, "unknown key 'ratio'"),
        "share": ({"pl_max_bad_share": 2.0}, "pl_max_bad_share"),
        "samples": ({"pl_samples": -1}, "pl_samples: must be an integer >= 0"),
        "no ctc": ({"model_conf": {"ctc_weight": 0.0}}, "model_conf.ctc_weight"),
        "model": ({"model": "maskctc"}, "model: 'maskctc'"),
        "warp": ({"pl_criterion": "soft_ce", "specaug_conf": {}}, "apply_time_warp"),
        **BAD_LABELS,
        "chunks": ({"iterator_type": "chunk"}, "iterator_type"),
        "gpus": ({"ngpu": 2}, "multiprocessing_distributed"),
        "no criterion": ({"pl_criterion": None}, "given without pl_criterion"),
        "no text": (
            {
                "train_data_path_and_name_and_type": data.options()[
                    "train_data_path_and_name_and_type"
                ][:1]
            },
            "no 'text' among",
        ),
        "within": ({"shuffle_within_batch": True}, "shuffle_within_batch"),
        "no data": ({key: []}, "exactly one file as 'speech'"),
        "missing": (unlabeled("nowhere/wav.scp"), "nowhere/wav.scp does not exist"),
        "empty": (unlabeled(str(tmp_path / "empty")), "is empty"),
        "leak": (unlabeled(data.path("dev", "wav.scp")), "validation data too"),
        "text": (
            unlabeled(
                data.path("unlabeled", "wav.scp"),
                [data.path("unlabeled", "text.oracle"), "text", "text"],
            ),
            "must not have a 'text'",
        ),
        "shape": (
            {"unlabeled_shape_file": [data.path("dev", "speech_shape")]},
            "not in the unlabeled data",
        ),
        "oracle": ({"unlabeled_oracle_text": "gone"}, "gone does not exist"),
        "tokens": ({"token_list": str(tmp_path / "other.txt")}, "base model"),
        "blank": ({"token_list": str(tmp_path / "late.txt")}, "first token"),
    }


def test_bad_input_is_refused_before_any_work(
    data, seed_model, tmp_path, capsys
) -> None:
    for name, (change, message) in bad_options(data, tmp_path).items():
        options = config(**{**data.options(), **PL, **change})
        out = tmp_path / "runs" / name.replace(" ", "_")
        with pytest.raises(SystemExit) as stop:
            train(SoftPLTask, options, out, "--init_param", best(seed_model))
        assert stop.value.code == 2, name
        assert message in capsys.readouterr().err, name
        assert not out.exists(), name


def test_sample_rates_must_match(data, tmp_path, capsys) -> None:
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.zeros(8000), 8000)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path / 'a.wav'}\n")
    options = config(**data.options(), **PL)
    options["unlabeled_data_path_and_name_and_type"] = [
        [str(tmp_path / "wav.scp"), "speech", "sound"]
    ]
    with pytest.raises(SystemExit):
        train(SoftPLTask, options, tmp_path / "exp")
    error = capsys.readouterr().err
    assert "8000 Hz" in error and "16000 Hz" in error


def test_targets_longer_than_the_audio_are_refused(data, tmp_path, capsys) -> None:
    shapes = tmp_path / "text_shape"
    lines = Path(data.path("labeled", "text_shape")).read_text().splitlines()
    shapes.write_text("".join(f"{line.split()[0]} 500,7\n" for line in lines))
    options = config(**data.options(), **PL)
    options["train_shape_file"][1] = str(shapes)
    with pytest.raises(SystemExit):
        train(SoftPLTask, options, tmp_path / "exp")
    assert "12 of 12 utterances" in capsys.readouterr().err


CONF = ROOT / "egs2" / "librispeech_softpl" / "conf"


# Of decoding, language models and full-size models: tests/recipe/test_librispeech.py.
CONFIGURATIONS = sorted([*CONF.glob("train_[!l]*.yaml"), *CONF.rglob("tuning/*.yaml")])


def test_every_criterion_has_a_configuration() -> None:
    named = {path.stem.removeprefix("train_pl_") for path in CONFIGURATIONS}
    assert set(criteria.available()) <= named
    found = {path: read_config(path).get("pl_criterion") for path in CONFIGURATIONS}
    # Alone, these two have nothing to hold them: their presets are blends.
    alone = {*criteria.available(), None} - {"consistency", "masked_kl"}
    assert set(found.values()) == alone


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_every_configuration_of_the_recipe_builds(path, data, tmp_path) -> None:
    tokens = data.options()["token_list"]
    # Stage 6 leaves a bigram beside the token list.
    words = ["--text", data.path("labeled", "text"), "--token_list", tokens]
    token_lm.main([*words, "--out", str(Path(tokens).with_name("bigram.arpa"))])
    cmd = [
        "--config",
        str(joined(path, tmp_path)),
        "--dry_run",
        "true",
        "--token_list",
        tokens,
    ]
    SoftPLTask.main(cmd=[*cmd, "--output_dir", str(tmp_path / "exp")])
    written = yaml.safe_load((tmp_path / "exp" / "config.yaml").read_text())
    assert written["model"] == "espnet"
    wanted = path.name.startswith("train_pl_")
    assert (written["pl_criterion"] is not None) == wanted
