"""Language models, networks, priors, votes and masks in labels, in ESPnet's trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from espnet_softpl.bin import token_lm
from espnet_softpl.training.task import SoftPLTask
from tests.end_to_end.test_label_forms import ALL, CACHE
from tests.end_to_end.test_training import compare_runs, reported
from tests.support.espnet_runs import PL, Data, config, make_data, train

POSTERIOR = dict(pl_shaping="lm_posterior", pl_shaping_conf={"lm": "bigram.arpa"})
RESCORE = dict(
    pl_shaping="rescore",
    pl_shaping_conf={"lm": "bigram.arpa", "nbest": 4, "temperature": 2.0},
)

VOTES = dict(pl_shaping="votes", pl_shaping_conf={"passes": 3})
NETWORK = {"pl_criterion_conf": {"nbest": 3, "network": True}}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    data = make_data(tmp_path_factory.mktemp("data"))
    words = ["--text", data.path("labeled", "text")]
    words += ["--out", str(data.root / "bigram.arpa")]
    token_lm.main([*words, "--token_list", str(data.root / "tokens.txt")])
    return data


@pytest.mark.slow
@pytest.mark.parametrize(
    "criterion, shaping, more",
    [
        ("soft_ce", POSTERIOR, {}),
        ("soft_ce", POSTERIOR, CACHE),
        ("hard_ctc", POSTERIOR, CACHE),
        ("soft_ctc", RESCORE, {}),
        ("nbest_ctc", RESCORE, CACHE),
        ("hard_ctc", RESCORE, CACHE),
        ("occupancy_ce", NETWORK, CACHE),
        ("hard_ctc", {"pl_criterion_conf": {"prior_scale": 0.5}}, {}),
        ("soft_ctc", VOTES, CACHE),
        ("masked_kl", {}, CACHE),
    ],
)
def test_it_trains_and_resumes(
    data: Data, tmp_path: Path, criterion: str, shaping: dict, more: dict
) -> None:
    options = {**data.options(), **PL, **ALL, **shaping, **more}
    options = config(**{**options, "pl_criterion": criterion, "max_epoch": 3})
    whole = train(
        SoftPLTask, options, tmp_path / "whole", "--num_iters_per_epoch", "16"
    )
    parts = tmp_path / "parts"
    few = ("--num_iters_per_epoch", "16")
    train(SoftPLTask, options, parts, *few, "--max_epoch", "1")
    train(SoftPLTask, options, parts, *few, "--resume", "true")
    compare_runs(whole, parts, epochs=3)
    assert np.isfinite(reported(whole, "loss_pl")) and reported(whole, "pl_kept") > 0
