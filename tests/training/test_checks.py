"""Which targets a model can have, what is refused, and what the page says of it."""

from __future__ import annotations

import itertools
import re

import pytest

from espnet_softpl.labels import forms as labels_forms
from espnet_softpl.labels.forms import LabelForms
from espnet_softpl.training import checks
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

AUX = dict(ctc_weight=1.0, interctc_weight=0.4, aux_ctc={"1": "phonemes"})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"pl_decoder": "hard"}, "pl_decoder: must be one of auto, none, transcript"),
        ({"pl_interctc": "all"}, "pl_interctc: must be one of none, last, own, got"),
        ({"pl_decoder": "forced"}, "'forced' needs an attention.*Legal: auto, none$"),
        ({"pl_decoder": "transcript"}, "a model of CTC alone. Legal: auto, none"),
        (
            dict(TRANSDUCER, pl_decoder="forced_soft"),
            "is a transducer. Legal: auto, none, transcript",
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
            "'own' with pl_shaping.*Legal: none, last",
        ),
    ],
)
def test_targets_that_the_model_has_not_are_refused(changes, message) -> None:
    args = SoftPLTask.get_parser().parse_args([])
    for key, value in config(pl_criterion="hard_ctc", **changes).items():
        setattr(args, key, value)
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
    args = SoftPLTask.get_parser().parse_args([])
    for key, value in config(pl_criterion="hard_ctc", **changes).items():
        setattr(args, key, value)
    checks.check_options(args)


PAGE = ROOT / "docs" / "label_forms.md"
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
    """Return the cells of a table of the page, without the header's rows."""
    text = PAGE.read_text(encoding="utf-8")
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


def test_the_tables_of_the_page_name_all_targets() -> None:
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
        args = SoftPLTask.get_parser().parse_args([])
        for key, value in config(pl_criterion=name, **MODELS[kind], **forms).items():
            setattr(args, key, value)
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
