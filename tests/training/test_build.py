"""The engine that is built of the settings."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import pytest

from espnet_softpl.core.errors import UserError
from espnet_softpl.training import build
from espnet_softpl.training.config import PLConfig
from espnet_softpl.training.task import SoftPLTask
from tests.support.espnet_runs import TOKENS, config
from tests.training.test_model import make_model


def parse(**changes: Any) -> argparse.Namespace:
    args = SoftPLTask.get_parser().parse_args(["--output_dir", "unused"])
    vars(args).update(config(**{"pl_criterion": "hard_ctc", **changes}))
    args.token_list = TOKENS
    return args


def test_tokens_become_text_or_are_refused() -> None:
    to_text = build.build_to_text(parse(token_type="char"))
    assert to_text([3, 4]) == "".join(TOKENS[3:5])
    with pytest.raises(UserError, match="token_type: .* char, bpe or word, got 'phn'"):
        build.build_to_text(parse(token_type="phn"))


@pytest.mark.parametrize("token_type", ["char", "phn"])
def test_samples_are_drawn_from_the_usable_utterances(token_type, tmp_path) -> None:
    (tmp_path / "unlabeled_shape").write_text("u1 900\nu2 800\nu3 700\n")
    args = parse(token_type=token_type, pl_samples=2, output_dir=str(tmp_path))
    recorder = build.build_samples(PLConfig.from_args(args))
    assert recorder is not None
    args.pl_samples = 0
    assert build.build_samples(PLConfig.from_args(args)) is None


def test_the_engine_has_the_parts_of_the_settings(tmp_path) -> None:
    model = make_model()
    args = parse(
        pl_cache="slimipl",
        pl_schedule_conf={"start_step": 5},
        output_dir=str(tmp_path),
        unlabeled_oracle_text=None,
    )
    settings = PLConfig.from_args(args)
    engine = build.build_pseudo_labeling(settings, model, math.nan)
    assert engine.criterion is settings.criterion and engine.guard is settings.guard
    assert (
        engine.generator.teacher is settings.teacher and engine.dropout.start_step == 5
    )
    assert engine.cache.settings is settings.cache and engine.oracle is None
    assert engine.sample_rate == 16000
    assert math.isnan(engine.labeled_tokens_per_sample)
    args.input_size = 80
    assert math.isnan(
        build.build_pseudo_labeling(settings, model, math.nan).sample_rate
    )


def test_an_oracle_is_read(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("u1 A B\nu2\n")
    args = parse(unlabeled_oracle_text=str(tmp_path / "text"))
    engine = build.build_pseudo_labeling(PLConfig.from_args(args), make_model(), 0.1)
    assert engine.oracle is not None


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"pl_filter": ["rate"], "pl_filter_conf": {"min_ratio": 0.5}},
            "pl_filter: rate compares with the speech rate",
        ),
        (
            {"pl_schedule_conf": {"layer_drop": 0.1}},
            "pl_schedule_conf: layer_drop is 0.1, but the model was built with none",
        ),
    ],
)
def test_what_the_model_or_the_data_lack_is_refused(changes, message) -> None:
    settings = PLConfig.from_args(parse(**changes, unlabeled_oracle_text=None))
    with pytest.raises(UserError, match=message):
        build.build_pseudo_labeling(settings, make_model(), math.nan)


def test_tokens_without_letters_are_no_words() -> None:
    """They are shown to people, but are not in the text of an utterance."""
    tokens = ["<blank>", "<unk>", "<space>", "A", "<sos/eos>"]
    args = argparse.Namespace(token_list=tokens, token_type="char", bpemodel=None)
    assert build.build_to_text(args)([1, 3, 4, 2, 3]) == "A A"
    assert build.build_to_text(args, any_type=True)([1, 3]) == "<unk>A"
