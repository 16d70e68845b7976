"""What is refused before work begins; targets of a model, and their page."""

from __future__ import annotations

import argparse
import itertools
import math
import re
from pathlib import Path

import pytest
import soundfile
import torch
import yaml

from espnet_softpl import criteria, filters
from espnet_softpl.core.errors import UserError
from espnet_softpl.labels import forms as labels_forms
from espnet_softpl.labels.forms import LabelForms
from espnet_softpl.training import checks
from espnet_softpl.training.schedule import Schedule
from espnet_softpl.training.task import SoftPLTask
from tests import ROOT
from tests.support.espnet_runs import HYBRID, config
from tests.support.models import (
    DEEP,
    INTER,
    INTER_HYBRID,
    JOINT,
    RNN,
    TRANSDUCER,
    run,
    talking,
    transducer,
)

__all__ = ["transducer"]  # A fixture.


def options(**changes) -> argparse.Namespace:
    """Parse what a training with these settings is given."""
    args = SoftPLTask.get_parser().parse_args([])
    vars(args).update(config(**{"pl_criterion": "hard_ctc", **changes}))
    return args


def test_what_is_allowed_becomes_the_configuration() -> None:
    made = checks.check_options(options(pl_cache="slimipl", pl_filter=["feasible"]))
    assert made.cache.size == 100 and [name for name, _ in made.filters] == ["feasible"]


class Trained(criteria.HardCTC):
    """A criterion with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))


class LateFrames(criteria.HardCTC):
    """A criterion that looks at frames above a weight of 1."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.frame_level = weight > 1.0
        self.weighs_frames = weight <= 1.0


LATE = {
    "pl_criterion": f"{__name__}:LateFrames",
    "pl_criterion_conf": {"weight": {"from": 0, "to": 2, "steps": 9}},
}
CONSISTENCY = "espnet_softpl.criteria.consistency:Consistency"
STILL = {"apply_time_warp": False}
MASKED = {
    "pl_criterion": "blend",
    "pl_criterion_conf": {"parts": [{"criterion": "masked_kl", "weight": 0.0}]},
}
WARP = {"specaug": "specaug", "specaug_conf": {"apply_time_warp": True}}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pl_cache_conf": {"size": 3}}, "pl_cache_conf: .* without a pl_cache"),
        ({"pl_criterion": f"{__name__}:Trained"}, "must not have parameters"),
        (
            {"pl_regularizer": [f"{__name__}:Trained"]},
            "pl_regularizer: a criterion must not have parameters",
        ),
        ({**LATE, **WARP}, "apply_time_warp: must be false with pl_criterion"),
        ({**LATE, "pl_shaping": ["frame_confidence"]}, "pl_shaping: .* weighs frames"),
        (
            {"pl_shaping": ["utterance_confidence", "rescore", "sharpen"]},
            "after 'rescore' or 'votes', which list transcripts, only confidences may",
        ),
        ({"pl_shaping": ["votes", "sharpen"]}, "after 'rescore' or 'votes'"),
        (
            {"pl_criterion": "masked_kl", "specaug": None},
            "apply_time_mask: must be true, with a specaug, for pl_criterion",
        ),
        (
            {**MASKED, "specaug_conf": {**STILL, "apply_time_mask": False}},
            "it teaches the frames that are masked",
        ),
        ({**MASKED, **WARP}, "apply_time_warp: must be false with pl_criterion"),
        (
            {"pl_regularizer": [CONSISTENCY], **WARP},
            "apply_time_warp: must be false with pl_regularizer",
        ),
        (
            {
                "pl_criterion": "consistency",
                "pl_criterion_conf": {"labeled_weight": 0.2},
                "pl_schedule_conf": {"labeled_steps": 0},
            },
            "labeled_steps and start_step are 0",
        ),
        (
            {"encoder_conf": {"ctc_trim": True}},
            "encoder_conf.ctc_trim: True drops frames",
        ),
        ({"keep_nbest_models": [2, 3], "pl_teacher": "topn"}, "3 epochs are kept"),
        ({"multiple_iterator": True}, "multiple_iterator: True.*--num_splits_asr 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes, message) -> None:
    with pytest.raises(UserError, match=message):
        checks.check_options(options(**changes))


def test_a_base_model_with_other_tokens_is_refused(tmp_path) -> None:
    model = tmp_path / "model.pth"
    args = options(token_list=["<blank>", "A"], init_param=[f"{model}:::ctc"])
    with pytest.raises(UserError, match="does not exist"):
        checks.check_tokens(args)
    torch.save({"ctc.ctc_lo.bias": torch.zeros(2)}, model)
    args.init_param = [f"{model}:ctc:ctc"]
    checks.check_tokens(args)  # nothing is known
    text = yaml.safe_dump({"token_list": ["<blank>", "A"]})
    (tmp_path / "config.yaml").write_text(text)
    checks.check_tokens(args)
    args.token_list = ["<blank>", "B"]
    with pytest.raises(UserError, match="from id 1 on from the 2 of the base model"):
        checks.check_tokens(args)
    args.token_list = ["A", "<blank>"]
    with pytest.raises(UserError, match="the first token must be '<blank>'"):
        checks.check_tokens(args)


@pytest.mark.parametrize(
    ("form", "more", "is_said"),
    [
        ("interleaved", {}, True),
        ("interleaved", {"accum_grad": 2}, False),
        ("interleaved", {"grad_clip": 0.0}, False),
        ("block", {}, False),
    ],
)
def test_a_weight_that_does_nothing_is_warned_of(form, more, is_said, caplog) -> None:
    checks.check_options(options(pl_schedule_conf={"form": form}, **more))
    assert not caplog.messages
    checks.check_options(
        options(pl_schedule_conf={"form": form, "weight": 2.0}, **more)
    )
    checks.check_options(
        options(pl_schedule_conf={"form": form}, pl_guard="back_off", **more)
    )
    said = [text.partition(" changes only updates")[0] for text in caplog.messages]
    wanted = ["pl_schedule_conf.weight", "The guard's lower_weight"]
    assert said == (wanted if is_said else [])


def test_filters_that_have_nothing_to_judge_by_are_refused() -> None:
    named = [("rate", filters.build("rate", min_ratio=0.5))]
    checks.check_filters(named, torch.nn.Linear(1, 1), 0.1)
    with pytest.raises(UserError, match="pl_filter: rate compares with the speech"):
        checks.check_filters(named, torch.nn.Linear(1, 1), math.nan)
    named = [("dropout_agreement", filters.build("dropout_agreement"))]
    checks.check_filters(named, torch.nn.Dropout(0.1), math.nan)
    votes = checks.check_options(options(pl_shaping=["votes"])).shaping
    checks.check_filters([], torch.nn.Dropout(0.1), math.nan, votes)
    for model in (torch.nn.Linear(1, 1), torch.nn.Dropout(0.0)):
        with pytest.raises(UserError, match="pl_filter: .* the model has none"):
            checks.check_filters(named, model, math.nan)
        with pytest.raises(UserError, match="pl_shaping: 'votes' .* has none"):
            checks.check_filters([], model, math.nan, votes)


def test_gpus_that_are_not_there_are_refused(monkeypatch) -> None:
    for found, told in ((0, "no"), (2, "2")):
        monkeypatch.setattr("torch.cuda.device_count", lambda found=found: found)
        with pytest.raises(UserError, match=f"ngpu: 4, but torch finds {told} GPUs"):
            checks.check_gpus(options(ngpu=4))


def test_an_experiment_that_takes_no_file_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for part in ("unlabeled", "train", "valid"):
        sound(tmp_path, part)
    args = options(output_dir=str(tmp_path / "file" / "exp"), **sets(tmp_path))
    with pytest.raises(UserError, match="output_dir: .* cannot be written to"):
        checks.check_data(args)
    args.output_dir = str(tmp_path / "exp")
    checks.check_data(args)
    args.unlabeled_oracle_text = "nowhere"
    with pytest.raises(UserError, match="unlabeled_oracle_text: nowhere does not"):
        checks.check_data(args)


def sound(directory: Path, part: str) -> None:
    """Write the `wav.scp` of a set of one utterance."""
    audio = directory / f"{part}.wav"
    soundfile.write(audio, [0.0] * 800, 16000)
    (directory / f"{part}.scp").write_text(f"{part} {audio}\n")


def sets(directory: Path) -> dict:
    """Return the options that name the sets."""
    return {
        f"{part}_data_path_and_name_and_type": [
            (str(directory / f"{part}.scp"), "speech", "sound")
        ]
        for part in ("unlabeled", "train", "valid")
    }


AUX = dict(ctc_weight=1.0, interctc_weight=0.4, aux_ctc={"1": "phonemes"})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pl_decoder": "hard"}, "pl_decoder: must be one of auto, none, transcript"),
        ({"pl_interctc": "all"}, "pl_interctc: must be one of none, last, own, got"),
        ({"pl_decoder": "forced"}, "'forced' needs an attention.*Allowed: auto, none$"),
        ({"pl_decoder": "transcript"}, "a model of CTC alone. Allowed: auto, none"),
        (
            dict(TRANSDUCER, pl_decoder="forced_soft"),
            "is a transducer. Allowed: auto, none, transcript",
        ),
        (
            dict(RNN, pl_decoder="forced", decoder_conf={"sampling_probability": 0.2}),
            "decoder_conf.sampling_probability: must be 0",
        ),
        ({"pl_interctc": "last"}, "interctc_layer_idx is None.*interctc_weight 0.0"),
        (
            dict(DEEP, pl_interctc="own"),
            r"interctc_layer_idx is \[1, 2\], model_conf.interctc_weight 0.0",
        ),
        (dict(DEEP, model_conf=AUX, pl_interctc="last"), "with model_conf.aux_ctc"),
        (
            dict(INTER, pl_interctc="own", pl_shaping=["sharpen"]),
            "'own' with pl_shaping.*Allowed: none, last",
        ),
    ],
)
def test_targets_that_the_model_has_not_are_refused(changes, message) -> None:
    args = options(**changes)
    with pytest.raises(ValueError, match=message):
        checks.check_options(args)


@pytest.mark.parametrize(
    "changes",
    [
        {"pl_decoder": "none"},
        dict(TRANSDUCER, pl_decoder="transcript"),
        dict(RNN, pl_decoder="forced_soft"),
        dict(INTER, pl_interctc="last", pl_shaping=["sharpen"]),
        dict(INTER_HYBRID, pl_interctc="own", pl_decoder="forced"),
    ],
)
def test_targets_that_the_model_has_are_taken(changes) -> None:
    args = options(**changes)
    checks.check_options(args)


PAGES = (ROOT / "docs/criteria.md", ROOT / "docs/dev/label_forms.md")
MODELS = {
    "CTC": {},
    "CTC, intermediate": INTER,
    "hybrid": HYBRID,
    "hybrid, intermediate": INTER_HYBRID,
    "transducer": TRANSDUCER,
}
EACH = {
    "criterion": {"transcripts": "hard_ctc", "frames": "soft_ce"},
    "pl_decoder": {name: name for name in labels_forms.DECODER_TARGETS},
    "pl_interctc": {name: name for name in labels_forms.LAYER_TARGETS},
}


def documented(header: str) -> list[list[str]]:
    """Return the cells of a table of the pages, without the header's rows."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    (rows,) = re.findall(rf"^\| {header} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.M)
    return [
        [cell.strip().strip("`") for cell in row.strip("|").split("|")]
        for row in rows.splitlines()
    ]


def named(kind: str, cell: str) -> list[str]:
    """Return the values that a cell of the table stands for."""
    values = EACH[kind]
    names = values if cell == "each" else cell.split(", ")
    return [values[name] for name in names]


def test_the_tables_of_the_pages_name_all_targets() -> None:
    for key, legal in (
        ("`pl_decoder`", labels_forms.DECODER_TARGETS),
        ("`pl_interctc`", labels_forms.LAYER_TARGETS),
    ):
        assert [row[0] for row in documented(key)] == list(legal)


@pytest.mark.parametrize("row", documented("model"), ids=lambda row: "-".join(row[:4]))
def test_what_is_trained_is_what_the_page_says(row, transducer) -> None:
    """By the gradients of one step, for all that a row of the table stands for."""
    kind, *chosen, last, between, decoder = row
    for name, target, layers in itertools.product(*map(named, EACH, chosen)):
        forms = dict(pl_decoder=target, pl_interctc=layers)
        args = options(pl_criterion=name, **MODELS[kind], **forms)
        if last == "refused":
            with pytest.raises(ValueError, match="pl_decoder: |pl_interctc: "):
                checks.check_options(args)
            continue
        checks.check_options(args)
        model = talking(name, **MODELS[kind], **forms)
        _, stats, grads = run(model)
        assert last == "criterion" and grads["ctc.ctc_lo.weight"].any()
        assert (between == "criterion") == ("loss_pl_interctc" in stats)
        assert bool(between) == ("intermediate" in kind)
        assert model.pl.decoder_target(model) == (decoder or "none")
        parts = [g for n, g in grads.items() if n.startswith(JOINT)]
        trained = bool(parts) and all(part is not None for part in parts)
        assert trained == (decoder not in ("", "none"))


def test_forms_are_checked_and_named() -> None:
    with pytest.raises(ValueError, match="pl_interctc: must be one of"):
        LabelForms(layers="first")
    assert LabelForms("transcript", "last").identity() == LabelForms().identity()
    assert not LabelForms("transcript").forced and LabelForms("forced").forced
    assert [LabelForms().decoder_target(True, t) for t in (False, True)] == [
        "transcript",
        "none",
    ]


@pytest.mark.parametrize(
    "conf, steps, filling, message",
    [
        (dict(start_step=8), 8, 0, "start_step: 8, and a cache of 0"),
        (dict(unlabeled_steps=1), 8, 20, "a cache of 20 that must be filled first"),
        (dict(weight=0.0), 8, 0, "weight: 0.0 is 0 in all of the run's 8"),
        (
            dict(weight={"from": 0.0, "to": 1.0, "steps": 5, "start": 7}),
            8,
            0,
            "is 0 in all of the run's 8 mini-batches",
        ),
    ],
)
def test_a_run_that_learns_nothing_is_refused(conf, steps, filling, message) -> None:
    schedule = Schedule(**conf)
    with pytest.raises(UserError, match=re.escape(message)):
        checks.check_schedule(schedule, 1, steps, filling)
    checks.check_schedule(Schedule(), 1, 8, 2)
